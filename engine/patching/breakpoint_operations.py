"""The operations of control tasks that use breakpoints for something else than probes.

The order in which a user sets its breakpoint and registers its handler is the scenario's to choose,
so a scenario can also show what a wrong order does.
"""

from __future__ import annotations

import errno
from collections.abc import Generator
from contextlib import contextmanager
from typing import Any

from engine.core.kprobes import Kprobes
from engine.errors import InputError, KprobeError, printable
from engine.foreign_breakpoint import ForeignBreakpoint
from engine.image import Image
from engine.kprobe import AggrKprobe
from engine.patching.control_side import DieChain
from engine.patching.foreign_lives import ForeignLives
from engine.patching.handler_log import HandlerLog

__all__ = ("BreakpointOperations",)


class BreakpointOperations:
    """The part of :class:`engine.patching.operations.Control` for breakpoints of other users.

    :ivar core: the core, which has the locks.
    :ivar foreign: the breakpoints, and what is expected of each.
    :ivar refused: a line for the user for each breakpoint that was refused.
    """

    core: Kprobes
    foreign: ForeignLives
    refused: list[str]
    _log: HandlerLog
    _image: Image
    _die_chain: DieChain

    def _begin(self) -> None:
        """Stop in front of an operation of the current control task, then count the operation."""
        raise NotImplementedError

    def _answers(self, answer: bool) -> None:
        """Note how an operation of the current control task ended."""
        raise NotImplementedError

    def _over(self) -> None:
        """Stop behind an operation, if other tasks may store what this one reads there."""
        raise NotImplementedError

    def breakpoint(
        self, symbol: str, offset: int = 0, *, before_probes: bool = False
    ) -> ForeignBreakpoint:
        """Make a breakpoint whose user counts hits, and emulates the instruction that it replaces.

        :param offset: the distance of the instruction from ``symbol``, in bytes.
        :param before_probes: the user is asked before kprobes whose breakpoint was hit.
        :raises InputError: there is no such function, or the instruction is none that the user
            emulates.
        """
        found = self._image.by_name.get(symbol)
        if found is None:
            raise InputError(f"no function {printable(symbol)}")
        number = len(self.foreign.all)

        def handler(regs: Any) -> None:
            self._log.foreign_hit(number, regs)

        one = ForeignBreakpoint(found.addr + offset, handler, before_probes)
        self._die_chain.require_emulated(one.addr)
        self.foreign.know(one)
        return one

    def register_die_notifier(self, one: ForeignBreakpoint) -> None:
        """Register the handler of ``one``, so that its hits find it."""
        self._begin()
        self._die_chain.register(one)
        self._answers(True)
        self._over()

    def unregister_die_notifier(self, one: ForeignBreakpoint) -> None:
        """Unregister the handler of ``one``: a hit that comes now is nobody's."""
        self._begin()
        self._die_chain.unregister(one)
        self._answers(True)
        self._over()

    def set_breakpoint(self, one: ForeignBreakpoint, *, asks: bool = True) -> bool:
        """Set the breakpoint ``one``, and return whether that was possible.

        :param asks: under ``kprobe_mutex``, refuse the breakpoint where a probe is, or where a
            probe's jump may go. kgdb does not ask.
        """
        with self._changing_breakpoint(one):
            try:
                if asks:
                    with self.core.locked("set a breakpoint"):
                        self._refuse_beside_probe(one.addr)
                        self._die_chain.set(one)
                else:
                    with self.core.text_mutex:
                        self._die_chain.set(one)
            except KprobeError as error:
                line = f"control task {self.core.plane.current!r}: set_breakpoint({one.addr:#x})"
                self.refused.append(f"{line} was refused: {error}")
        return one.saved is not None

    def remove_breakpoint(self, one: ForeignBreakpoint) -> None:
        """Put back what the breakpoint ``one`` has replaced, if it is set."""
        with self._changing_breakpoint(one), self.core.text_mutex:
            self._die_chain.remove(one)

    def synchronize_sched(self) -> None:
        """Wait until no CPU is in a handler of breakpoints any more that it is in now.

        A user needs that between its breakpoint and its handler where removing a breakpoint waits
        for no CPU, as in 2.6.38.
        """
        self._begin()
        self.core.plane.synchronize_sched("a handler of breakpoints")
        self._over()

    @contextmanager
    def _changing_breakpoint(self, one: ForeignBreakpoint) -> Generator[None]:
        """Note the begin and the end of an operation that sets or removes ``one``."""
        self._begin()
        self.foreign.begin(one)
        yield
        self.foreign.end(one)
        self._answers(one.saved is not None)
        self._over()

    def _refuse_beside_probe(self, addr: int) -> None:
        """Refuse ``addr`` where the table has a probe there, or one whose jump may go there.

        :raises KprobeError: EBUSY.
        """
        core = self.core
        jumps = (
            op
            for op in core.kprobe_table.values()
            if isinstance(op, AggrKprobe) and op.optinsn is not None
        )
        if core.get_kprobe(addr) is not None or any(
            core.arch.arch_within_optimized_kprobe(op, addr) for op in jumps
        ):
            raise KprobeError(errno.EBUSY, f"a probe uses the bytes at {addr:#x}")
