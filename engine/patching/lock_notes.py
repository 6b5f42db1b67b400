"""Notes of what an operation of a control task meets when it has taken ``kprobe_mutex``.

From there on no other operation comes in between, so what the oracles expect of its probes is
decided there: for which probe a copy of an instruction is made, whether a jump stood at a site, and
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
"""Every operation on a probe holds this lock while it changes anything."""


class LockNotes:
    """This object writes into a ledger what an operation meets under the lock.

    :param jump: the first byte of the jump that an optimized probe writes.
    :param ledger: what is expected of each probe.
    :param probes: the probes by number.
    :param returns: the return probes among them, by number.
    :param instances: the instances of each registration of a return probe, by the probe's
        number and the count of its registrations; this class fills it in.
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
        # Only in these profiles do the oracles ask where a jump stood. In the others it must not be
        # noted, since it would tell control states apart that behave alike.
        self._asks_for_jumps = (
            core.profile.reoptimizes_neighbour and not core.profile.reoptimizes_later
        )

    def lock_taken(self, name: str) -> None:
        """Note that the current control task has taken the lock called ``name``.

        The operation that had kprobe_mutex last is the one whose effect on a probe counts.
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
        """Return whether the jump that probe ``n`` had still decides anything.

        It does if it still stands, or if it may have kept a probe in front of it from being
        optimized.
        """
        addr = self._probes[n].addr
        if addr is None:
            return False
        most = self._core.arch.max_optimized_len
        return self._text.read(addr, 1) == self._jump or any(
            0 < addr - at < most for at in self._core.kprobe_table
        )

    def _note_copy(self, n: int, addr: int) -> None:
        """Note the probe for which the copy at ``addr`` is made when ``n`` is registered.

        If there is no copy yet, it is made for the entry of the table, or, where there is
        none, for ``n``.
        """
        entry = self._core.get_kprobe(addr)
        if entry is None or entry.ainsn is None:
            first = self._probes[n] if entry is None else entry
            self._ledger.copied_for_post[addr] = first.post_handler is not None

    def _note_rearmed(self, operation: Operation) -> None:
        """Note where an operation is about to write a breakpoint while a jump waits to be undone.

        Such an operation enables a probe, lets an enabled one join a disabled aggregator,
        or arms all probes. Where an unused aggregator is taken over the jump stays.
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
