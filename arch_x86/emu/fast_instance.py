"""The fast instance of a vCPU: the same vCPU in another emulator, which seldom leaves its loop.

It answers to no kernel file. The vCPU's state moves there for each run, and back again behind it;
:mod:`arch_x86.emu.fast_run` says what that is for, and when it is done.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Any, Final, cast

from arch_x86.emu.block_counter import BLOCK_MAX, BlockCounter
from arch_x86.emu.cpu import TRAPS, Cpu
from arch_x86.emu.hits_inside import HitsInside
from arch_x86.emu.host_code import HostCode
from arch_x86.emu.libunicorn import UC_OK
from arch_x86.emu.private_state import PrivateState
from arch_x86.emu.traps import Traps
from arch_x86.emu.uc import UcInstance

if TYPE_CHECKING:
    from arch_x86.emu.machine import Machine
    from arch_x86.text.text_version import TextVersion

__all__ = ("FastInstance",)

_CHUNK: Final = 1 << 22
"""Most instructions of one run of the emulator. Ctrl-C is noticed only between two runs."""
_PAGE_FAULT: Final = 14
_LAST_VECTOR: Final = 31


class _Away:
    """What stands in the place of a vCPU's usual instance while the vCPU is in the fast one.

    A handler that asks it for anything makes the vCPU move to the usual instance.
    """

    __slots__ = ("_hits",)

    def __init__(self, hits: HitsInside) -> None:
        object.__setattr__(self, "_hits", hits)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._hits.move(), name)

    def __setattr__(self, name: str, value: Any) -> None:
        setattr(self._hits.move(), name, value)


class FastInstance:
    """The fast instance of ``cpu``.

    :param machine: the machine of the vCPU.
    :param fast: the instance, in which nothing has been executed yet.
    :param code: the host's code for its hooks.
    :param traps: gives the answers for which the usual instance leaves.
    :param handling: the vCPUs whose traps are being handled, innermost last.
    :ivar given_up: the instance can't be used any more.
    :ivar inside: the vCPU is in it.
    """

    __slots__ = (
        "_away",
        "_context",
        "_counter",
        "_cpu",
        "_fast",
        "_flushes",
        "_hits",
        "_machine",
        "_mapped",
        "_private",
        "_strays",
        "_text",
        "_uc",
        "given_up",
        "inside",
    )

    def __init__(
        self,
        machine: Machine,
        cpu: Cpu,
        fast: UcInstance,
        code: HostCode,
        traps: Traps,
        handling: list[int],
    ) -> None:
        self._machine = machine
        self._cpu = cpu
        self._uc = cpu.uc
        self._fast = fast
        self._counter = BlockCounter(fast, code)
        self._hits = HitsInside(machine, cpu, fast, code, self._counter.words, traps, handling)
        self._away = cast(UcInstance, _Away(self._hits))
        self._private = PrivateState(fast)
        self._context = fast.new_context()
        self._text: TextVersion | None = None
        self._strays = 0
        self._mapped = len(machine.mappings)
        self._flushes = machine.flushes
        self.given_up = False
        self.inside = False
        fast.patched = cpu.uc.patched

    def close(self) -> UcInstance:
        """Return the instance, for the return to a pool; no run may follow."""
        self._fast.patched = set()
        self._fast.hooks.clear()
        self._counter.close()
        return self._fast

    def run(self, count: int, begun: int, done: int) -> tuple[int, bool]:
        """Run in the fast instance.

        :param count: the limit, of which ``begun`` have retired.
        :returns: how many have begun afterwards; and False where the limit is all that has ended
            the run, in front of a block.
        """
        cpu, fast, hits, uc = self._cpu, self._fast, self._hits, self._uc
        self._enter()
        try:
            return self._run(count, begun, done)
        finally:
            hits.take_back()
            self.inside = False
            cpu.uc = uc
            if not hits.left:
                fast.save(self._context)
                uc.restore(self._context)
                uc.rip, uc.vector, uc.err = fast.rip, fast.vector, fast.err

    def _enter(self) -> None:
        """Let the vCPU stand in the fast instance, with memory and text as they are now."""
        machine, cpu, fast, uc = self._machine, self._cpu, self._fast, self._uc
        for mapping in machine.mappings[self._mapped :]:
            fast.memory.map(*mapping)
        self._mapped = len(machine.mappings)
        if self._flushes != machine.flushes:
            self._flushes = machine.flushes
            self._text = None
            fast.flush_translations()
        strays = cpu.strays
        for addr in strays[self._strays :]:
            fast.hooks.trap_at(addr)
        self._strays = len(strays)
        if self._text is not cpu.view:
            self._text = cpu.view
            self._counter.forget()
        uc.save(self._context)
        fast.restore(self._context)
        fast.flush_tlb()
        fast.rip = uc.rip
        self._hits.begin(enabled=cpu.watcher is None)
        self.inside = True
        cpu.uc = self._away

    def _run(self, count: int, begun: int, done: int) -> tuple[int, bool]:
        """Run the fast instance as :meth:`run` does."""
        counter, fast, hits = self._counter, self._fast, self._hits
        while True:
            limit = min(count - begun, _CHUNK)
            counter.begin(limit)
            hits.end = done + begun + limit
            fast.start_by_blocks()
            error = counter.failed or hits.failed
            if error is not None:
                counter.failed = None
                raise error
            counted = counter.count
            if hits.left:
                return begun + counted, True
            if counter.lost:
                self.given_up = True
                return begun + counted, False
            if not counter.stopped:
                return self._ended(begun, counted)
            begun += counted
            if count - begun <= BLOCK_MAX:
                return begun, False

    def _ended(self, begun: int, counted: int) -> tuple[int, bool]:
        """Return what :meth:`run` returns, where something else than a limit has ended the run.

        :param counted: the instructions of all blocks that began.
        """
        fast = self._fast
        if fast.vector is not None or fast.err != UC_OK:
            return begun + self._began(counted), True
        if self._counter.is_behind(fast.rip) and self._cpu.is_halted(fast.rip):
            return begun + counted, True
        # The emulator has left its loop without a word, as it may do at a fault when it does not
        # count. The usual instance comes to the same fault, and tells it.
        began = self._counter.began(fast.rip, self._cpu.fetched)
        return begun + (began - 1 if self._counter.is_in(fast.rip) else began), False

    def _began(self, counted: int) -> int:
        """Return how many instructions began in a run that an exception or an error has ended.

        :param counted: the instructions of all blocks that began.
        """
        vector, rip = self._fast.vector, self._fast.rip
        if vector is not None and (vector in TRAPS or vector > _LAST_VECTOR):
            return counted
        if vector == _PAGE_FAULT and self._private.was_fetch():
            return counted
        return self._counter.began(rip, self._cpu.fetched)
