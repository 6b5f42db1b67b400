"""The hooks of a Unicorn instance: what its callbacks tell of a run.

No Python runs inside of a callback but to note what happened and to ask for the run's end
(``emu_stop``): an exception that is raised there is lost, and greenlets must not be switched.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from ctypes import addressof, c_uint64, c_void_p
from types import FrameType
from typing import Final, Protocol

from arch_x86.emu.libunicorn import (
    CODE_CALLBACK,
    INTR_CALLBACK,
    MEMORY_CALLBACK,
    SYSCALL_CALLBACK,
    emu_stop,
    hook_add,
    hook_del,
    reg_read,
    uc_const,
    x86,
)

__all__ = (
    "VECTOR_INVALID",
    "VECTOR_SYSCALL",
    "VECTOR_WATCH",
    "CallbackCounter",
    "HookedRun",
    "Hooks",
    "in_callback",
)

VECTOR_INVALID: Final = 6
"""The vector of #UD."""
VECTOR_SYSCALL: Final = 0x100
"""Pseudo vector of ``syscall`` and ``sysenter``, which Unicorn would silently skip."""
VECTOR_WATCH: Final = 0x101
"""Pseudo vector: the next instruction is one of :meth:`Hooks.watch`, and has not been executed."""

_CALLBACK_NAMES: Final = frozenset(
    {"intr", "syscall", "invalid", "watched", "wrote", "loaded", "began", "tell", "_count_one"}
)


def in_callback(frame: FrameType | None) -> bool:
    """Return whether ``frame`` is that of a callback from the emulator, or of what one has called.

    An exception would be lost there.
    """
    while frame is not None and not (
        frame.f_code.co_filename == __file__ and frame.f_code.co_name in _CALLBACK_NAMES
    ):
        frame = frame.f_back
    return frame is not None


class HookedRun(Protocol):
    """The state of a run that the callbacks read and write.

    :ivar vector: the exception that ends the run; None: nothing has happened.
    :ivar started_at: the address of the run's first instruction, until that has begun; None
        afterwards.
    :ivar executed_alone: the address of the instruction that :meth:`UcInstance.start_one
        <arch_x86.emu.uc.UcInstance.start_one>` executes now, which has been counted before; None
        outside of it.
    :ivar patched: the addresses of :meth:`Hooks.trap_at` where something else stands at present.
    """

    vector: int | None
    started_at: int | None
    executed_alone: int | None
    patched: set[int]

    def flush_translations(self) -> None:
        """Drop every translated block: those translated before a hook was added do not call it."""
        ...


class CallbackCounter:
    """The slow way to count instructions, where Unicorn's own counter was not found.

    A callback in front of each instruction counts, and also ends the run.

    :ivar value: how many instructions have begun since :meth:`restart`.
    """

    def __init__(self, handle: int) -> None:
        self._handle = handle
        self._limit = 0
        self.value = 0
        self._callback = CODE_CALLBACK(self._count_one)
        hook_add(handle, uc_const.UC_HOOK_CODE, self._callback, None, 1, 0)

    def restart(self, limit: int) -> None:
        """Count from 0 in the next run, and end it in front of instruction ``limit`` + 1."""
        self.value = 0
        self._limit = limit

    def _count_one(self, _uc: int, _address: int, _size: int, _data: int) -> None:
        self.value += 1
        if self.value > self._limit:
            emu_stop(self._handle)


class Hooks:
    """The hooks of one instance.

    Those of exceptions and system calls are always there; the others stay until :meth:`clear`.

    :param handle: the instance.
    :param run: the run that the callbacks tell of.
    """

    __slots__ = (
        "_answered",
        "_callbacks",
        "_exceptions",
        "_handle",
        "_hooks",
        "_kept",
        "_recording",
        "_run",
        "_watches",
    )

    def __init__(self, handle: int, run: HookedRun) -> None:
        self._handle = handle
        self._run = run
        self._hooks: list[int] = []
        self._callbacks: list[object] = []
        self._recording = 0
        self._watches = 0
        self._exceptions = 0
        self._kept: tuple[object, ...] = self._hook_exceptions()

    def _hook_exceptions(self) -> tuple[object, ...]:
        """Add the hooks that are always there and return their callbacks."""
        handle, run, stop = self._handle, self._run, emu_stop

        def intr(_uc: int, number: int, _data: int) -> None:
            # In a single step by TF a system call is followed by #DB in the same run.
            if run.vector != VECTOR_SYSCALL:
                run.vector = number
            stop(handle)

        def syscall(_uc: int, _data: int) -> None:
            run.vector = VECTOR_SYSCALL
            stop(handle)

        exception, system_call = INTR_CALLBACK(intr), SYSCALL_CALLBACK(syscall)
        self._exceptions = hook_add(handle, uc_const.UC_HOOK_INTR, exception, None, 1, 0)
        self._answered = False
        for instruction in (x86.UC_X86_INS_SYSCALL, x86.UC_X86_INS_SYSENTER):
            hook_add(handle, uc_const.UC_HOOK_INSN, system_call, instruction, 1, 0)
        return exception, system_call

    def _add(
        self, kind: int, callback: object, begin: int = 1, end: int = 0, data: int | None = None
    ) -> None:
        self._hooks.append(hook_add(self._handle, kind, callback, None, begin, end, data))
        self._callbacks.append(callback)

    def _remove_last(self) -> None:
        hook_del(self._handle, self._hooks.pop())
        self._callbacks.pop()

    def clear(self) -> None:
        """Remove all hooks but those that are always there. The caller drops the translations."""
        while self._hooks:
            self._remove_last()
        self._recording = self._watches = 0
        self._hear_exceptions()

    @property
    def watching(self) -> bool:
        """There is a hook that watches or records what is executed."""
        return bool(self._watches or self._recording)

    # Hooks of the host's machine code -------------------------------------------------------------

    def answer_exceptions(self, code: int, words: int) -> None:
        """Have exceptions told to the host's machine code until :meth:`clear`.

        They end no run then.

        :param code: its host address (:mod:`arch_x86.emu.host_code`).
        :param words: the host address of the words that it uses, which the caller keeps alive.
        """
        hook_del(self._handle, self._exceptions)
        self._exceptions = hook_add(
            self._handle, uc_const.UC_HOOK_INTR, c_void_p(code), None, 1, 0, words
        )
        self._answered = True

    def _hear_exceptions(self) -> None:
        """Have exceptions end runs again, if :meth:`answer_exceptions` has changed that."""
        if self._answered:
            hook_del(self._handle, self._exceptions)
            self._exceptions = hook_add(
                self._handle, uc_const.UC_HOOK_INTR, self._kept[0], None, 1, 0
            )
            self._answered = False

    def answer_at(self, addr: int, code: int, words: int) -> None:
        """Call the host's machine code in front of an instruction that starts at ``addr``.

        Nothing at ``addr`` may have been executed yet. The other parameters are those of
        :meth:`answer_exceptions`.
        """
        self._add(uc_const.UC_HOOK_CODE, c_void_p(code), addr, addr, words)

    def count_blocks(self, code: int, words: int) -> None:
        """Call the host's machine code in front of each block.

        Nothing may have been executed yet. The parameters are those of :meth:`answer_exceptions`.
        """
        self._add(uc_const.UC_HOOK_BLOCK, c_void_p(code), 1, 0, words)

    # Hooks that end a run -------------------------------------------------------------------------

    def trap_at(self, addr: int) -> None:
        """Raise #UD instead of executing an instruction that starts at ``addr``.

        This holds while ``addr`` is not in :attr:`HookedRun.patched`. Nothing at ``addr`` may have
        been executed yet.
        """
        handle, run = self._handle, self._run

        def invalid(_uc: int, _address: int, _size: int, _data: int) -> None:
            if addr not in run.patched:
                run.vector = VECTOR_INVALID
                emu_stop(handle)

        self._add(uc_const.UC_HOOK_CODE, CODE_CALLBACK(invalid), addr, addr)

    def watch(self, begin: int, end: int) -> None:
        """End a run by :data:`VECTOR_WATCH` in front of each instruction in ``[begin, end)``.

        The instruction has to start there; the one that the run starts with does not end it.
        Nothing there may have been translated yet.
        """
        handle, run = self._handle, self._run

        def watched(_uc: int, address: int, _size: int, _data: int) -> None:
            if address == run.started_at:
                run.started_at = None
            else:
                run.vector = VECTOR_WATCH
                emu_stop(handle)

        self._add(uc_const.UC_HOOK_CODE, CODE_CALLBACK(watched), begin, end - 1)
        self._watches += 1

    # Hooks that record ----------------------------------------------------------------------------

    def record(self, writes: set[tuple[int, int]], executed: dict[int, int]) -> None:
        """Record stores and executions until :meth:`stop_recording`.

        No other hook may be added before that.

        :param writes: gets the physical address and the size of each store.
        :param executed: counts how often the instructions at its addresses are executed.
        """
        run = self._run

        def wrote(_uc: int, _kind: int, address: int, size: int, _value: int, _data: int) -> None:
            writes.add((address, size))

        def began(_uc: int, address: int, _size: int, _data: int) -> None:
            executed[address] += address != run.executed_alone

        self._add(uc_const.UC_HOOK_MEM_WRITE, MEMORY_CALLBACK(wrote))
        for addr in executed:
            self._add(uc_const.UC_HOOK_CODE, CODE_CALLBACK(began), addr, addr)
        self._recording = 1 + len(executed)
        run.flush_translations()

    def record_loads(self, seen: Callable[[int, int, int], None]) -> None:
        """Call ``seen`` for each load of a counted run, until :meth:`stop_recording`.

        :param seen: takes the physical address, RSP and RIP.
        """
        value = c_uint64()
        where, handle = addressof(value), self._handle

        def loaded(_uc: int, _kind: int, address: int, _size: int, _value: int, _data: int) -> None:
            reg_read(handle, x86.UC_X86_REG_RSP, where)
            rsp = value.value
            reg_read(handle, x86.UC_X86_REG_RIP, where)
            seen(address, rsp, value.value)

        self._add(uc_const.UC_HOOK_MEM_READ, MEMORY_CALLBACK(loaded))
        self._recording = 1
        self._run.flush_translations()

    def stop_recording(self) -> None:
        """Take back the hooks of the last :meth:`record`, :meth:`record_loads` or :meth:`trace`."""
        for _ in range(self._recording):
            self._remove_last()
        self._recording = 0
        self._run.flush_translations()

    def trace(
        self, spans: Iterable[tuple[int, int]], touched: Callable[[int, int, int, bool], None]
    ) -> None:
        """Tell ``touched`` of each load and store in the physical ``spans`` (from, to).

        :meth:`stop_recording` ends it, if no other hook was added since.

        :param touched: takes the address of the instruction, the physical address, the size in
            bytes, and whether it is a store.
        """
        kind = uc_const.UC_HOOK_MEM_READ | uc_const.UC_HOOK_MEM_WRITE
        value = c_uint64()
        where, handle = addressof(value), self._handle

        def tell(_uc: int, kind: int, address: int, size: int, _value: int, _data: int) -> None:
            reg_read(handle, x86.UC_X86_REG_RIP, where)
            touched(value.value, address, size, kind == uc_const.UC_MEM_WRITE)

        self._recording = 0
        for begin, end in spans:
            self._add(kind, MEMORY_CALLBACK(tell), begin, end - 1)
            self._recording += 1
        self._run.flush_translations()
