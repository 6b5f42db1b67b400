"""What an operation of a control task meets when it has come to hold ``kprobe_mutex``.

From there on no other operation comes in between, so what the oracles expect of its probes is
decided there: which copy of an instruction is made for whom, whether a jump stood at a site, and
whether a breakpoint is put where a jump still waits to be undone.
"""

from __future__ import annotations

from typing import Final

from engine.core.kprobes import Kprobes
from engine.kprobe import AggrKprobe, Kprobe, Queue
from engine.kretprobe import Kretprobe, KretprobeInstance
from engine.patching.control_side import ExploredText
from engine.patching.expectations import Ledger, Operation

__all__ = ("LockNotes",)

_DECIDES: Final = "kprobe_mutex"
"""The lock that every operation on a probe holds while it changes anything."""


class LockNotes:
    """Writes it into the ledger of one control state.

    :param jump: the first byte of the jump that an optimized probe writes.
    :param ledger: what is expected of each probe.
    :param probes: by number; ``returns``: the return probes among them.
    :param instances: of each registration of a return probe, by its number and which one it was:
        filled in here.
    """

    def __init__(
        self,
        core: Kprobes,
        text: ExploredText,
        ledger: Ledger,
        *,
        jump: bytes,
        probes: list[Kprobe],
        returns: dict[int, Kretprobe],
        instances: dict[tuple[int, int], tuple[KretprobeInstance, ...]],
    ) -> None:
        self._core = core
        self._text = text
        self._ledger = ledger
        self._jump = jump
        self._probes = probes
        self._returns = returns
        self._instances = instances
        # In these profiles alone it makes a difference to what is expected, and what makes none
        # must not tell control states apart.
        self._asks_for_jumps = (
            core.profile.reoptimizes_neighbour and not core.profile.reoptimizes_later
        )

    def lock_taken(self, name: str) -> None:
        """The current control task has taken the lock called ``name``. Which operation on a probe
        came last is decided by which one had kprobe_mutex last.
        """
        if name != _DECIDES:
            return
        self._ledger.jumped = set(filter(self._jump_matters, self._ledger.jumped))
        operation = self._ledger.under_way.get(self._core.plane.current)
        if operation is None:
            return
        self._ledger.locked(operation)
        for n in operation.numbers:
            if n in self._returns:
                self._instances.setdefault(
                    (n, self._ledger.registration(n)), self._returns[n].instances
                )
            addr = self._probes[n].addr
            if addr is not None and self._text.read(addr, 1) == self._jump and self._asks_for_jumps:
                self._ledger.jumped.add(n)
            if (
                addr is not None
                and operation.effect.registered
                and not self._core.profile.slot_has_both
            ):
                self._note_copy(n, addr)
        if not self._core.profile.rearms_whole:
            self._note_rearmed(operation)

    def _jump_matters(self, n: int) -> bool:
        """The jump that probe ``n`` had still stands, or may have kept a probe in front of it from
        being optimized.
        """
        addr = self._probes[n].addr
        if addr is None:
            return False
        most = self._core.arch.max_optimized_len
        return self._text.read(addr, 1) == self._jump or any(
            0 < addr - at < most for at in self._core.kprobe_table
        )

    def _note_copy(self, n: int, addr: int) -> None:
        """Probe ``n`` is about to be registered: it is the one that a copy is made for, if there is
        none at ``addr``.
        """
        entry = self._core.get_kprobe(addr)
        if entry is None or entry.ainsn is None:
            first = self._probes[n] if entry is None else entry
            self._ledger.copied_for_post[addr] = first.post_handler is not None

    def _note_rearmed(self, operation: Operation) -> None:
        """An operation that may write a breakpoint where the jump of before still waits to be
        undone is about to: it enables a probe, lets an enabled one join a disabled aggregator, or
        arms all. Where an unused aggregator is taken over the jump stays.
        """
        effect = operation.effect
        if effect.armed:
            entries = list(self._core.kprobe_table.values())
        elif effect.disabled is False:
            entries = [
                self._core.get_kprobe(p.addr)
                for p in map(self._probes.__getitem__, operation.numbers)
                if p.addr is not None
            ]
        else:
            return
        for entry in entries:
            if (
                not isinstance(entry, AggrKprobe)
                or entry.queue is not Queue.UNOPTIMIZING
                or entry.unused
            ):
                continue
            if entry.disabled or effect.armed:
                self._ledger.rearmed.add(entry.at)
