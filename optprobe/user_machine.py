"""A machine to experiment with from Python.

It is an image, vCPUs and a kprobes core, and it calls the image's functions.
"""

from __future__ import annotations

from types import TracebackType
from typing import Self

from arch_x86.emu.execute import InterruptPlan
from arch_x86.emu.fault import GuestFaultError
from arch_x86.emu.machine import Snapshot
from arch_x86.emu.sigint import interruptible
from arch_x86.lab.bench import Workbench
from arch_x86.lab.calls import check_arguments, place_call, require_function
from arch_x86.lab.run import CallResult, read_call
from arch_x86.text.poke import PokeFactory
from engine import defaults
from engine.brief import count, described, shortened
from engine.core.kprobes import Kprobes
from engine.core.profiles import Profile
from engine.errors import InputError, printable
from engine.image import Image
from engine.jprobe import Jprobe
from engine.kprobe import Kprobe, Method
from engine.kretprobe import Kretprobe
from engine.syntax.interrupts import parse_interrupts
from optprobe.inputs import (
    CallArgument,
    ImageLike,
    Number,
    ProfileLike,
    Stubs,
    as_arguments,
    as_image,
    exec_options,
)

__all__ = ("Machine",)

_INTEGERS_MAX = 6
"""The most integer arguments that fit in registers."""


class Machine:
    """An image in a machine of ``cpus`` vCPUs, ready to be probed and called.

    Close it, or use it in a ``with`` statement. Its emulators are given back then, and it can't be
    used any more.

    :param image: an image, or the file to load it from (:func:`optprobe.load_image` has more
        options).
    :param profile: whose behaviour the machine shows: the name of a profile, or a profile, such as
        one of :func:`optprobe.profile`.
    :param poke: makes the protocol by which text is written, ``poke(text, plane, without)``; None:
        the profile's.
    :param stubs: unresolved functions that return a number, by name.
    :param max_instructions: the most instructions that a call may retire.
    :param check_alignment: a memory operand that has to be aligned and is not is a fault.
    :ivar workbench: the parts that the machine is made of, for what this class does not offer.
    :raises InputError: one of them is wrong.
    """

    def __init__(
        self,
        image: ImageLike,
        *,
        cpus: Number = defaults.CPUS,
        profile: ProfileLike = defaults.PROFILE,
        poke: PokeFactory | None = None,
        stubs: Stubs = (),
        max_instructions: Number = defaults.MAX_INSTRUCTIONS,
        check_alignment: bool = False,
    ) -> None:
        options = exec_options(profile, cpus, max_instructions, stubs, check_alignment)
        self._open = False
        loaded = as_image(image, stubs=options.stubs)
        self.workbench = Workbench(
            loaded, cpus=options.cpus, config=options.machine, profile=options.profile, poke=poke
        )
        self.workbench.limit = options.max_instructions
        self._cpus = options.cpus
        self._open = True

    def close(self) -> None:
        """Give the emulators back. Closing the machine once more does nothing."""
        if self._open:
            self._open = False
            self.workbench.close()

    def __enter__(self) -> Self:
        self._require_open()
        return self

    def __exit__(
        self,
        _kind: type[BaseException] | None,
        _error: BaseException | None,
        _where: TracebackType | None,
    ) -> None:
        self.close()

    def __repr__(self) -> str:
        core = self.workbench.kprobes
        probes = sum(
            len(getattr(entry, "children", (entry,))) for entry in core.kprobe_table.values()
        )
        state = "" if self._open else "closed"
        return described(
            self,
            shortened(self.image.name),
            count(self._cpus, "vCPU"),
            core.profile.name,
            count(probes, "probe"),
            state,
        )

    @property
    def image(self) -> Image:
        """The image that runs."""
        return self.workbench.image

    @property
    def profile(self) -> Profile:
        """The profile whose behaviour the machine shows."""
        return self.workbench.kprobes.profile

    @property
    def kprobes(self) -> Kprobes:
        """The kernel's operations.

        They are ``register_kprobe(p)``, ``disable_kprobe(p)``, ``register_kretprobe(rp)`` and
        others.
        """
        return self.workbench.kprobes

    # Calls ----------------------------------------------------------------------------------------

    def call(
        self,
        function: str,
        *arguments: CallArgument,
        cpu: int = 0,
        interrupts: str | InterruptPlan | None = None,
    ) -> CallResult:
        """Call a function by the System V convention, and run it to its end.

        A bytes-like argument goes to a fresh buffer, whose address is passed; ``result.buffers``
        has the content of each of these buffers afterwards, in order. Buffers stay allocated, so
        give the address of one (:meth:`allocate`) to a call that is made often.

        :param function: its name, or its address as a text (``0x...``) where several have that
            name.
        :param arguments: at most 6 integers and buffers and 8 floats, or texts as of ``--arg``.
        :param cpu: the number of the vCPU.
        :param interrupts: when external interrupts come, as of ``run --interrupts``:
            ``"every:100"``, ``"random:SEED:MEAN"``.
        :returns: ``result`` is RAX, unsigned; ``result_f64`` the double in XMM0; ``instructions``
            the number of all that were retired.
        :raises GuestFaultError: the call died, or did not end within ``max_instructions``; its
            ``fault`` says where and why.
        :raises InputError: there is no such function or vCPU, arguments do not fit, or a handler
            runs.
        """
        bench = self._require_idle("call_nested() calls guest code from a handler")
        if not 0 <= cpu < self._cpus:
            raise InputError(f"cpu={cpu}: the machine has {self._cpus}; give 0 to {self._cpus - 1}")
        given = as_arguments(arguments)
        check_arguments(given)
        symbol = require_function(bench.image, bench.machine.kallsyms, function)
        plan = parse_interrupts(interrupts) if isinstance(interrupts, str) else interrupts
        frame = place_call(bench.machine, symbol.addr, given)
        before, bench.interrupts = bench.interrupts, plan
        try:
            with interruptible():
                bench.start_call(cpu, frame.addr, frame.integers, frame.floats)
                fault = bench.finish_call(cpu)
        finally:
            bench.interrupts = before
        if fault is not None:
            raise GuestFaultError(fault)
        return read_call(bench.machine, cpu, function, frame)

    def call_nested(self, function: str, *integers: int) -> int:
        """Call a guest function from a handler, and return RAX.

        It runs on the stack of the code that the handler interrupted, and all that was interrupted
        is restored behind it. Probes that it passes are missed (``nmissed``), like all that a
        handler hits.

        :raises GuestFaultError: the function died. A handler that lets this exception through ends
            the probed call by the same fault.
        :raises InputError: no handler runs, there is no such function, or there are more than 6
            arguments.
        """
        bench = self._require_open()
        cpu = bench.executor.handling
        if cpu is None:
            raise InputError("call_nested() is for handlers, and none runs; use call()")
        if len(integers) > _INTEGERS_MAX:
            raise InputError(
                f"{len(integers)} arguments; at most {_INTEGERS_MAX} integers fit in registers"
            )
        return bench.call_nested(
            cpu, require_function(bench.image, bench.machine.kallsyms, function).addr, *integers
        )

    def wait_for_kprobe_optimizer(self) -> None:
        """Wait until the optimizer has nothing left to do.

        All jumps that can be written are in then, and all that are to go are out.

        :raises InputError: a handler runs.
        """
        bench = self._require_idle("a handler must not wait")
        with interruptible():
            bench.kprobes.wait_for_kprobe_optimizer()

    # Memory and text ------------------------------------------------------------------------------

    def allocate(self, size: int, content: bytes | bytearray | memoryview = b"") -> int:
        """Allocate a buffer of ``size`` bytes, and return its address.

        The buffer holds ``content`` and zeros behind it, and an unmapped page follows it.

        :raises InputError: there is no room for it, or the content is longer than the buffer.
        """
        bench = self._require_open()
        if size < max(1, len(content)):
            raise InputError(
                f"a buffer of {size} bytes for {len(content)}; give a size of at least 1, and at"
                " least that of the content"
            )
        return bench.machine.allocate(size, bytes(content))

    def read(self, addr: int, size: int) -> bytes:
        """``size`` bytes of memory at ``addr``, as the guest would read them.

        :raises InputError: some of them are not mapped.
        """
        data = self._require_open().machine.read(addr, size) if size > 0 else None
        if data is None:
            raise InputError(f"{size} bytes at {addr:#x} can't be read: not all of them are mapped")
        return data

    def write(self, addr: int, data: bytes | bytearray | memoryview) -> None:
        """Store ``data`` at ``addr``.

        :raises InputError: some of the bytes are not mapped, or are code or constants.
        """
        if not self._require_open().machine.ram.write(addr, bytes(data)):
            raise InputError(
                f"{len(data)} bytes at {addr:#x} can't be written: not all of them are mapped, or"
                " they are code or constants"
            )

    def address(self, function: str) -> int:
        """The address at which a function starts.

        :raises InputError: there is none of that name, or there are several.
        """
        bench = self._require_open()
        return require_function(bench.image, bench.machine.kallsyms, function).addr

    def text(self, addr: int, size: int) -> bytes:
        """The code at ``addr`` as it stands now, breakpoints and jumps included.

        There are fewer than ``size`` bytes where the code ends before.
        """
        return self._require_open().machine.text.read(addr, size)

    # Probes ---------------------------------------------------------------------------------------

    def method(self, probe: Kprobe | Kretprobe | Jprobe) -> Method:
        """The way in which a hit on the probe would run now.

        :raises InputError: the probe is not registered in this machine.
        """
        bench = self._require_open()
        p = probe if isinstance(probe, Kprobe) else probe.kp
        if not bench.kprobes.is_registered(p):
            raise InputError(f"{printable(repr(probe))} is not registered in this machine")
        return bench.method(p)

    # Snapshots ------------------------------------------------------------------------------------

    def snapshot(self) -> Snapshot:
        """The state of vCPUs, memory and time.

        :meth:`restore` goes back to it while the same probes are in place. What Python handlers
        keep is no part of it.

        :raises InputError: a handler runs.
        """
        return self._require_idle("take a snapshot between calls").machine.snapshot()

    def restore(self, snapshot: Snapshot) -> None:
        """Go back to ``snapshot``, which can be used again.

        :raises InputError: the text has changed since it was taken, so a probe has come, gone or
            been optimized; or a handler runs.
        """
        machine = self._require_idle("go back between calls").machine
        if machine.text.current is not snapshot.text:
            raise InputError(
                "the text has changed since the snapshot was taken: take it when the probes are in"
                " place"
            )
        machine.restore(snapshot)

    # Whether it can be used -----------------------------------------------------------------------

    def _require_open(self) -> Workbench:
        """The workbench of a machine that is not closed."""
        if not self._open:
            raise InputError("the machine is closed; make another one")
        return self.workbench

    def _require_idle(self, otherwise: str) -> Workbench:
        """The workbench of an open machine, where no handler runs.

        :param otherwise: what to do instead in a handler, for the message.
        """
        bench = self._require_open()
        if bench.executor.handling is not None:
            raise InputError(f"a handler runs; {otherwise}")
        return bench
