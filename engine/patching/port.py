"""What a CPU side must offer to an exploration of code patching: the contract that an
architecture's package implements.

:class:`Port` is five protocols: the vCPUs (:class:`CpuPort`), hits in pieces (:class:`HitPort`),
the text (:class:`TextPort`), the memory (:class:`MemoryPort`), and calls without probes
(:class:`engine.patching.unprobed.UnprobedPort`). What each control state needs is in
:mod:`engine.patching.control_side`. vCPUs and tasks go by number: the tasks of vCPU ``n`` are
``2n`` and, in a preemptible machine, ``2n + 1``. Virtual addresses, physical addresses and sizes
are in bytes; a run is counted in retired instructions. All of it has to be deterministic: the same
calls from the same saved state give the same answers. Nothing here says when a thing happens: that
is the explorer's choice. No method raises but where it says so.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from engine.control.stepped_plane import SteppedPlane
from engine.image import Image
from engine.patching.control_side import ExploredArch, ExploredText, TextVersion
from engine.patching.hit_in_progress import Block, Hit
from engine.patching.own_code import OwnCode
from engine.patching.parked_task import ParkedTask
from engine.patching.port_records import Fault, PatchFacts, Stop, WayTaken
from engine.patching.unprobed import CallOutcome, UnprobedPort

if TYPE_CHECKING:
    from hashlib import blake2b

__all__ = (
    "CpuPort",
    "HitPort",
    "MemoryPort",
    "Port",
    "TextPort",
)


class CpuPort(Protocol):
    """The vCPUs and their tasks."""

    @property
    def number(self) -> int:
        """How many vCPUs there are."""
        ...

    def ip(self, cpu: int) -> int:
        """Address of the next instruction."""
        ...

    def run(self, cpu: int, budget: int) -> tuple[Stop, int]:
        """Run on to a watched instruction, to what has to be answered, or for ``budget``
        instructions.

        :returns: why it came back, and how many steps that were, at least 1: instructions retired,
            a faulting one included.
        """
        ...

    def answer(self, cpu: int) -> None:
        """Do what the machine has to do about the stop that the last :meth:`run` of ``cpu`` came
        back with, before it can go on.
        """
        ...

    def begin_call(self, cpu: int, task: int) -> None:
        """Set the vCPU up as if the function that ``task`` calls had just been called."""
        ...

    def spent(self, cpu: int) -> int:
        """Instructions that the present call has retired."""
        ...

    def out_of_instructions(self, cpu: int, limit: int) -> None:
        """The present call dies, since it has not ended after ``limit`` instructions."""
        ...

    def died(self, cpu: int) -> bool:
        """The last call on the vCPU has died."""
        ...

    def fault(self, cpu: int) -> Fault | None:
        """How, if it did."""
        ...

    def outcome(self, task: int) -> CallOutcome:
        """What the call of ``task``, which has the CPU, has left."""
        ...

    def way_to_die(self, task: int) -> CallOutcome:
        """What a call of ``task`` leaves that has died: as :meth:`outcome`, but that registers
        count for nothing. How far an endless loop came is no part of it.
        """
        ...

    def park(self, cpu: int, *, in_call: bool) -> Any:
        """The task that has the CPU, as it stands, and what is told of it: next instruction,
        registers and vectors (all zero unless ``in_call``), the end of its stack, and a context for
        :meth:`resume`, in that order.
        """
        ...

    def resume(self, cpu: int, parked: ParkedTask) -> None:
        """Give the vCPU to ``parked``."""
        ...

    def new_tasks(self, cpu: int) -> tuple[ParkedTask, ...]:
        """The second task of the vCPU, before its first call; none, where the machine is not
        preemptible.
        """
        ...

    # Interrupts

    def takes_interrupt(self, cpu: int) -> bool:
        """An interrupt that comes at the present boundary is taken here."""
        ...

    def interrupt(self, cpu: int, *, whole: bool) -> None:
        """An external interrupt is taken; with ``whole`` its handler runs to its end, else it is
        entered.
        """
        ...

    def interrupt_up_to_return(self, cpu: int) -> None:
        """An external interrupt is taken, and its handler runs up to the instruction that returns
        from it.
        """
        ...

    def takes_nmi(self, cpu: int) -> bool:
        """An NMI that comes at the present boundary is taken here."""
        ...

    def deliver_nmi(self, cpu: int, *, in_call: bool) -> bytes | None:
        """An NMI is delivered; not ``in_call``: on the empty stack of a vCPU between calls. Returns
        the vector state that it interrupts; None: it was not delivered.
        """
        ...

    def enter_nmi_function(self, cpu: int, task: int) -> tuple[object, str | None]:
        """The handler of an NMI calls the function that ``task`` calls. Returns a token for
        :meth:`leave_nmi`, and what is not as a function may expect where it begins, in a sentence,
        if anything is.
        """
        ...

    def leave_nmi(self, cpu: int, token: object) -> None:
        """That function has returned: on to the end of the NMI, and to what it interrupted."""
        ...


class HitPort(Protocol):
    """Hits in pieces. Between two pieces a hit is a record of its own
    (:class:`engine.patching.hit_in_progress.Hit`), and so is what the kprobes layer knows of the
    CPU (``Block``); each control state has a layer of its own, so that record is loaded into the
    present one before a piece, and stored behind it.
    """

    def begin(self, cpu: int) -> Hit:
        """A run has come back with :attr:`Stop.HIT`."""
        ...

    def advance(self, state: Any, cpu: int, hit: Hit) -> Hit | None:
        """The next piece of ``hit`` in control state ``state``. None: the hit is over and the CPU
        goes on, or its call has died.
        """
        ...

    def load(self, state: Any, cpu: int, block: Block) -> None:
        """From here on the layer of ``state`` knows of the CPU what ``block`` says."""
        ...

    def store(self, state: Any, cpu: int) -> Block:
        """What the layer of ``state`` knows of the CPU."""
        ...

    def wrong_entry(self, cpu: int) -> str | None:
        """What is not as handlers may expect where a stub or detour buffer has just asked for them,
        in a sentence; None: nothing.
        """
        ...

    def flags(self, hit: Hit) -> int:
        """The flags of what was hit by a breakpoint, as they are in its pt_regs now."""
        ...

    def way_taken(self, hit: Hit, block: Block, flags: int) -> WayTaken | None:
        """The handlers of a hit by breakpoint have run, and the resume address is set.

        :param block: the record of the CPU; ``flags``: what :meth:`flags` said before this piece.
        :returns: None where the copy in the slot is not what comes next.
        """
        ...

    def returning_call(self, cpu: int) -> tuple[int, int]:
        """A run has come back with :attr:`Stop.RETURN_PROBE`: where on the stack the return address
        lay, and the value returned.
        """
        ...

    def stack_word(self, addr: int) -> int:
        """The word on the stack at ``addr``."""
        ...

    def stack_pointer(self, regs: Any) -> int:
        """The stack pointer in these pt_regs (kernel_stack_pointer())."""
        ...

    def instruction_pointer(self, regs: Any) -> int:
        """The address in these pt_regs at which the CPU goes on (instruction_pointer())."""
        ...

    def return_value(self, regs: Any) -> int:
        """The call's result in these pt_regs (regs_return_value())."""
        ...


class TextPort(Protocol):
    """The text as each vCPU fetches it, names of addresses, and the layers of control states."""

    @property
    def facts(self) -> PatchFacts:
        """What patches look like."""
        ...

    @property
    def image(self) -> Image:
        """The program that is patched."""
        ...

    @property
    def kallsyms(self) -> Any:
        """Its symbols (:class:`engine.kallsyms.Kallsyms`)."""
        ...

    @property
    def trampoline(self) -> int:
        """Where functions with a return probe return to."""
        ...

    def build(
        self, plane: SteppedPlane, *, whole_batches: bool
    ) -> tuple[ExploredText, ExploredArch]:
        """A text with its original content, and an arch layer on it, for a new control state.

        :param whole_batches: what ``stop_machine`` writes is one step, since nobody can look
            meanwhile.
        """
        ...

    def show(self, state: Any, version: TextVersion) -> None:
        """From now on all vCPUs fetch ``version``, and their traps go to the arch layer of control
        state ``state``.
        """
        ...

    def require_shown(self, version: TextVersion) -> None:
        """Raise EngineBug unless all vCPUs fetch ``version``."""
        ...

    def fetched(self, cpu: int, addr: int, size: int) -> bytes:
        """What the vCPU would fetch there."""
        ...

    def read(self, version: TextVersion, addr: int, size: int) -> bytes:
        """The bytes there in ``version``."""
        ...

    def first_change(self, version: TextVersion) -> tuple[int, int, int] | None:
        """The first byte outside of slots and detour buffers in which ``version`` is not the
        original: its address, its value, and the original one; None: there is no such byte.
        """
        ...

    @property
    def buffers(self) -> range:
        """The addresses where slots and detour buffers are."""
        ...

    @property
    def stubs(self) -> Container[int]:
        """The addresses of the stubs that traps, interrupts and returns enter."""
        ...

    def ftrace(self, ainsn: object) -> tuple[bytes, bytes] | None:
        """Of a probe that is made of ftrace (``ainsn`` is what the arch layer keeps with it): the
        call that arms it, and the instruction that is there without; None of any other.
        """
        ...

    def watch(self, spans: Iterable[tuple[int, int]]) -> None:
        """From now on runs stop in front of each instruction that begins in one of ``spans``
        (begin, end). An address is watched once.
        """
        ...

    def where(self, addr: int) -> str:
        """An address as people name it."""
        ...

    def next_instruction(self, cpu: int) -> tuple[str, bool]:
        """The next instruction of the vCPU for a timeline: place and text; and whether it is one of
        the program's own.
        """
        ...


class MemoryPort(Protocol):
    """The memory, and the state of the whole machine."""

    @property
    def room(self) -> Any:
        """Physical memory, from address 0: a buffer whose slices are bytes."""
        ...

    def content(self) -> bytes:
        """All of physical memory that is in use, as it is now."""
        ...

    def data(self, *, per_cpu: bool) -> Sequence[tuple[int, int]]:
        """Physical spans (begin, end) of the data but stacks; with ``per_cpu`` also of each vCPU's
        own area, without what the machine's own handlers keep there.
        """
        ...

    def own(self, task: int) -> Iterator[range]:
        """Physical spans of what only ``task`` has: its stack and its buffers."""
        ...

    def name(self, phys: int) -> str:
        """Memory as people name it."""
        ...

    def save(self) -> Any:
        """The state of the machine, but of what the text port shows."""
        ...

    def restore(self, saved: Any) -> None:
        """Go back; ``saved`` stays good."""
        ...

    def require_restored(self, saved: Any) -> None:
        """Raise EngineBug unless each vCPU stands where it stood in ``saved``."""
        ...

    def release(self, saved: Any) -> None:
        """``saved`` is not needed any more."""
        ...

    def add_cpu(self, cpu: int, digest: blake2b) -> None:
        """Add all that decides how the vCPU goes on to a state's hash: registers, whether
        interrupts are held back, live stack.
        """
        ...

    def add_task(self, parked: ParkedTask, digest: blake2b) -> None:
        """Add what is live on the stack of a task that does not run; the rest of it is in the
        record.
        """
        ...


class Port(Protocol):
    """A machine that has been brought up, with its calls placed."""

    @property
    def cpus(self) -> CpuPort:
        """The vCPUs."""
        ...

    @property
    def hits(self) -> HitPort:
        """Hits in pieces."""
        ...

    @property
    def text(self) -> TextPort:
        """The text."""
        ...

    @property
    def memory(self) -> MemoryPort:
        """The memory."""
        ...

    @property
    def unprobed(self) -> UnprobedPort:
        """Calls without probes, before an exploration begins."""
        ...

    @property
    def own_code(self) -> OwnCode:
        """Which modules are the project's own."""
        ...

    def close(self) -> None:
        """Give the machine back. Nothing of the port may be used any more."""
        ...
