"""The table of vCPUs' transitions, in which each is looked up that was made before.

A transition's key is the vCPU's record, how the vCPU goes on, the shared state, and either the
class of the control state's text or, if the transition asks the core, that of the core, too
(:meth:`engine.patching.control_tree.ControlNode.text_class`). One transition in a hundred, chosen
by its key, is made again in each control state in which it is looked up, and has to come to the
same: a class that leaves something out would show there.
"""

from __future__ import annotations

from typing import Any, Final

from engine.patching.automata.vcpu_transitions import Row
from engine.patching.control_tree import ControlNode

__all__ = ("Key", "TransitionTable")

Key = tuple[int, int, int, int]
"""A record's number, how the vCPU goes on, a shared state's number, and the number of a class."""
_WATCHED: Final = 100
"""One transition in so many is made again in each control state."""


class TransitionTable:
    """All transitions that were made since the table was last emptied.

    :ivar asked: some transition that was looked up or added since this was set to False asks the
        core.
    :ivar rows: the transitions by their keys, apart from those that are made again.
    """

    def __init__(self) -> None:
        self._numbers: dict[Any, int] = {}
        self._classes: dict[int, int] = {}
        self._cores: dict[int, int] = {}
        self.asked = False
        self.clear()

    def clear(self) -> None:
        """Forget all transitions, since runs stop at places at which they did not stop before."""
        self.rows: dict[Key, Row] = {}
        self._watched: dict[Key, Row] = {}
        self._made_again: set[tuple[Key, int]] = set()

    def find(self, record: int, how: int, shared: int, node: ControlNode) -> Row | None:
        """Return what is known of a transition that need not be made again, or None."""
        row = self.rows.get((record, how, shared, self._class_of(node)))
        if row is not None:
            return row
        row = self.rows.get((record, how, shared, ~self._core_of(node)))
        self.asked = self.asked or row is not None
        return row

    def find_watched(
        self, record: int, how: int, shared: int, node: ControlNode
    ) -> tuple[Row | None, bool]:
        """Return what is known of a transition that is made again, and whether it is now.

        :returns: the row, or None; and whether this control state is new to it.
        """
        for asked in (False, True):
            key = self.key(record, how, shared, node, asked=asked)
            row = self._watched.get(key)
            if row is not None:
                self.asked = self.asked or asked
                new = (key, node.number) not in self._made_again
                self._made_again.add((key, node.number))
                return row, new
        return None, False

    def add(self, key: Key, row: Row, *, asked: bool, made: bool) -> None:
        """Add a transition.

        :param asked: it asks the core.
        :param made: it was made on the machine, by one run, so that it can be made again.
        """
        self.asked = self.asked or asked
        (self._watched if made and hash(key) % _WATCHED == 0 else self.rows)[key] = row

    def key(self, record: int, how: int, shared: int, node: ControlNode, *, asked: bool) -> Key:
        """Return the key of a transition.

        :param asked: the transition asks the core.
        """
        last = ~self._core_of(node) if asked else self._class_of(node)
        return (record, how, shared, last)

    def _class_of(self, node: ControlNode) -> int:
        number = self._classes.get(node.number)
        if number is None:
            number = self._classes[node.number] = self._numbers.setdefault(
                node.text_class(), len(self._numbers)
            )
        return number

    def _core_of(self, node: ControlNode) -> int:
        number = self._cores.get(node.number)
        if number is None:
            told = (self._class_of(node), node.core_class())
            number = self._cores[node.number] = self._numbers.setdefault(told, len(self._numbers))
        return number
