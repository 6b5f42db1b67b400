"""What a CPU side must offer to an exploration of code patching.

This is the contract that an architecture's package implements. :class:`Port` consists of five
protocols: the vCPUs (:class:`CpuPort`), hits in pieces (:class:`HitPort`), the text
(:class:`TextPort`), the memory (:class:`MemoryPort`), and calls without probes
(:class:`engine.patching.unprobed.UnprobedPort`). What each control state needs is in
:mod:`engine.patching.control_side`.

vCPUs and tasks go by number: the tasks of vCPU ``n`` are ``2n`` and, in a preemptible machine, ``2n
+ 1``. Virtual addresses, physical addresses and sizes are in bytes; a run is counted in retired
instructions. A port has to be deterministic: the same calls from the same saved state give the same
answers. It never decides when something happens: the explorer does. Methods raise errors only where
their docstrings say so.
"""

from __future__ import annotations

from collections.abc import Container, Iterable, Iterator, Mapping, Sequence
from typing import TYPE_CHECKING, Any, Protocol

from engine.control.stepped_plane import SteppedPlane
from engine.image import Image
from engine.patching.code_views import CodeViews
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
    """This port offers the vCPUs and their tasks."""

    @property
    def number(self) -> int:
        """Return how many vCPUs there are."""
        ...

    def ip(self, cpu: int) -> int:
        """Return the address of the vCPU's next instruction."""
        ...

    def run(self, cpu: int, budget: int) -> tuple[Stop, int]:
        """Let the vCPU run to a watched instruction, to a stop, or for ``budget`` instructions.

        :returns: why the run came back, and how many steps it made, at least 1: the
            instructions that were retired, and one that faulted.
        """
        ...

    def answer(self, cpu: int) -> None:
        """Do what the machine has to do about the stop of the last :meth:`run` of ``cpu``.

        The vCPU can't go on before that.
        """
        ...

    def begin_call(self, cpu: int, task: int) -> None:
        """Set the vCPU up as if the function that ``task`` calls had just been called."""
        ...

    def spent(self, cpu: int) -> int:
        """Return how many instructions the present call on the vCPU has retired."""
        ...

    def out_of_instructions(self, cpu: int, limit: int) -> None:
        """Let the present call die, since it has not ended after ``limit`` instructions."""
        ...

    def died(self, cpu: int) -> bool:
        """Return whether the last call on the vCPU has died."""
        ...

    def fault(self, cpu: int) -> Fault | None:
        """Return how the last call on the vCPU has died, or None if it has not."""
        ...

    def outcome(self, task: int) -> CallOutcome:
        """Return what the call of ``task``, which has the CPU, has left."""
        ...

    def way_to_die(self, task: int) -> CallOutcome:
        """Return what a call of ``task`` that has died leaves, as :meth:`outcome` does for others.

        Registers do not count, and neither does how far an endless loop came.
        """
        ...

    def park(self, cpu: int, *, in_call: bool) -> Any:
        """Take the task off the CPU as it stands, and return what is told of it.

        :returns: the next instruction, the registers and the vectors (all zero unless
            ``in_call``), the end of the task's stack, and a context for :meth:`resume`, in
            that order.
        """
        ...

    def resume(self, cpu: int, parked: ParkedTask) -> None:
        """Give the vCPU to the task ``parked``."""
        ...

    def move(self, cpu: int, ip: int) -> None:
        """Let the vCPU, which stands in the program's own code, go on at ``ip``."""
        ...

    def move_parked(self, parked: ParkedTask, ip: int) -> None:
        """Let the task ``parked``, which was interrupted, go on at ``ip`` behind the interrupt."""
        ...

    def new_tasks(self, cpu: int) -> tuple[ParkedTask, ...]:
        """Return the vCPU's second task before its first call; none, if nothing preempts tasks."""
        ...

    # Interrupts and NMIs

    def takes_interrupt(self, cpu: int) -> bool:
        """Return whether the vCPU takes an interrupt at the present instruction boundary."""
        ...

    def interrupt(self, cpu: int, *, whole: bool) -> None:
        """Deliver an external interrupt; with ``whole`` its handler runs to its end, too."""
        ...

    def interrupt_up_to_return(self, cpu: int) -> None:
        """Deliver an external interrupt, and run its handler up to the instruction that returns."""
        ...

    def takes_nmi(self, cpu: int) -> bool:
        """Return whether the vCPU takes an NMI that comes at the present instruction boundary."""
        ...

    def deliver_nmi(self, cpu: int, *, in_call: bool) -> bytes | None:
        """Deliver an NMI, and return the interrupted vector state; None: it was not delivered.

        :param in_call: a call is interrupted; otherwise the NMI comes on the empty stack of
            a vCPU between calls.
        """
        ...

    def enter_nmi_function(self, cpu: int, task: int) -> tuple[object, str | None]:
        """Let the handler of an NMI call the function that ``task`` calls.

        :returns: a token for :meth:`leave_nmi`, and a sentence on what is not as a function
            may expect where it begins, or None.
        """
        ...

    def leave_nmi(self, cpu: int, token: object) -> None:
        """Go on behind the function of an NMI's handler, up to what the NMI interrupted."""
        ...


class HitPort(Protocol):
    """This port offers hits in pieces.

    Between two pieces a hit is a record of its own
    (:class:`engine.patching.hit_in_progress.Hit`), and so is what the kprobes layer knows of
    the CPU (``Block``). Each control state has a layer of its own, so that record is loaded
    into the present layer before a piece, and stored behind it.
    """

    def begin(self, cpu: int) -> Hit:
        """Return the hit of a vCPU whose run has come back with :attr:`Stop.HIT`."""
        ...

    def advance(self, state: Any, cpu: int, hit: Hit) -> Hit | None:
        """Do the next piece of ``hit`` in the control state ``state``.

        :returns: the hit behind that piece; None if the hit is over and the CPU goes on, or
            if its call has died.
        """
        ...

    def load(self, state: Any, cpu: int, block: Block) -> None:
        """Let the layer of ``state`` know of the CPU what ``block`` says."""
        ...

    def store(self, state: Any, cpu: int) -> Block:
        """Return what the layer of ``state`` knows of the CPU."""
        ...

    def wrong_entry(self, cpu: int) -> str | None:
        """Return a sentence on what handlers that were just asked for may not expect, or None."""
        ...

    def flags(self, hit: Hit) -> int:
        """Return the flags in the pt_regs of a hit by breakpoint, as they are now."""
        ...

    def way_taken(self, hit: Hit, block: Block, flags: int) -> WayTaken | None:
        """Return how a hit by breakpoint goes on, when its handlers have run.

        The address at which the CPU resumes is set already.

        :param block: the record of the CPU.
        :param flags: what :meth:`flags` returned before this piece.
        :returns: None where the copy in the slot is not what comes next.
        """
        ...

    def returning_call(self, cpu: int) -> tuple[int, int]:
        """Return where the return address of a returning call lay, and what the call returns.

        The run of the vCPU has come back with :attr:`Stop.RETURN_PROBE`.
        """
        ...

    def stack_word(self, addr: int) -> int:
        """Return the word on the stack at ``addr``."""
        ...

    def stack_pointer(self, regs: Any) -> int:
        """Return the stack pointer in these pt_regs (kernel_stack_pointer())."""
        ...

    def instruction_pointer(self, regs: Any) -> int:
        """Return the address in these pt_regs at which the CPU goes on (instruction_pointer())."""
        ...

    def return_value(self, regs: Any) -> int:
        """Return the call's result in these pt_regs (regs_return_value())."""
        ...


class TextPort(CodeViews, Protocol):
    """This port offers the text as vCPUs fetch it, names of addresses, and arch layers."""

    @property
    def facts(self) -> PatchFacts:
        """Return the sizes, bytes and names that code patching on this processor has."""
        ...

    @property
    def image(self) -> Image:
        """Return the program that is patched."""
        ...

    @property
    def kallsyms(self) -> Any:
        """Return the program's symbols (:class:`engine.kallsyms.Kallsyms`)."""
        ...

    @property
    def trampoline(self) -> int:
        """Return the address of the trampoline to which functions with a return probe return."""
        ...

    def build(
        self, plane: SteppedPlane, *, whole_batches: bool
    ) -> tuple[ExploredText, ExploredArch]:
        """Return a text with the original content and an arch layer on it, for a control state.

        :param whole_batches: what ``stop_machine`` writes is one step, since no vCPU can
            run meanwhile.
        """
        ...

    def show(self, state: Any, version: TextVersion) -> None:
        """Let all vCPUs fetch ``version``, and take their traps to the arch layer of ``state``."""
        ...

    def require_shown(self, version: TextVersion) -> None:
        """Require that all vCPUs fetch ``version``.

        :raises EngineBug: a vCPU fetches another text version.
        """
        ...

    def first_change(
        self, version: TextVersion, apart: Mapping[int, bytes]
    ) -> tuple[int, int, int] | None:
        """Return the first changed byte of the text outside of slots and detour buffers.

        :param apart: by address, code that replaces the original, so that it counts as unchanged.
        :returns: the byte's address, its value, and the original one; None if no byte
            differs.
        """
        ...

    @property
    def buffers(self) -> range:
        """Return the addresses of the memory that holds slots and detour buffers."""
        ...

    @property
    def stubs(self) -> Container[int]:
        """Return the addresses of the stubs that traps, interrupts and returns enter."""
        ...

    def ftrace(self, ainsn: object) -> tuple[bytes, bytes] | None:
        """Return what arms and what disarms a probe that uses ftrace.

        :param ainsn: what the arch layer keeps with the probe.
        :returns: the call that arms the probe, and the instruction that stands there
            without it; None for a probe that does not use ftrace.
        """
        ...

    def watch(self, spans: Iterable[tuple[int, int]]) -> None:
        """Let runs stop in front of each instruction that begins in one of ``spans`` (begin, end).

        No address is given twice.
        """
        ...

    def where(self, addr: int) -> str:
        """Return the name of an address for people, such as its function and offset."""
        ...

    def next_instruction(self, cpu: int, insn: bytes | None) -> tuple[str, bool]:
        """Return place and text of the vCPU's next instruction, and whether the program has it.

        :param insn: the bytes that the vCPU fetches; None: those of the text that is shown.
        """
        ...


class MemoryPort(Protocol):
    """This port offers the memory, and the state of the whole machine."""

    @property
    def room(self) -> Any:
        """Return physical memory from address 0 on, as a buffer whose slices are bytes."""
        ...

    def content(self) -> bytes:
        """Return a copy of all physical memory that is in use."""
        ...

    def data(self, *, per_cpu: bool) -> Sequence[tuple[int, int]]:
        """Return the physical spans (begin, end) of all data but stacks.

        :param per_cpu: the spans have each vCPU's own area, too, without what the machine's
            own handlers keep there.
        """
        ...

    def own(self, task: int) -> Iterator[range]:
        """Yield the physical spans of the memory of ``task`` alone: its stack and its buffers."""
        ...

    def buffers(self, task: int) -> Iterator[range]:
        """Yield the physical spans of the buffers that the call of ``task`` is given."""
        ...

    def name(self, phys: int) -> str:
        """Return the name of a physical address for people."""
        ...

    def save(self) -> Any:
        """Return the state of the machine without what the text port shows."""
        ...

    def restore(self, saved: Any) -> None:
        """Go back to the state ``saved``, which can be used again after that."""
        ...

    def require_restored(self, saved: Any) -> None:
        """Require that each vCPU stands where it stood in ``saved``.

        :raises EngineBug: a vCPU stands elsewhere.
        """
        ...

    def release(self, saved: Any) -> None:
        """Say that ``saved`` is not needed any more, so that its memory can be used again."""
        ...

    def clear_dead(self, cpu: int, *, live: bool) -> None:
        """Clear what is dead of the stack of the task that has the vCPU.

        :param live: whether the vCPU is in a call or in an NMI; else the whole stack is dead.
        """
        ...

    def begin_to_keep(self) -> None:
        """Note the vCPUs as they are now, none of which has made a call, for :meth:`put`."""
        ...

    def keep(self, cpu: int, parked: Sequence[ParkedTask], *, live: bool) -> Any:
        """Return the state of one vCPU: its registers, its task, and what is live of its stacks.

        :param parked: its tasks that do not run.
        :param live: whether it is in a call or in an NMI; else its registers are left out, since
            its next call sets them up anew.
        """
        ...

    def differs(self, kept: Any, other: Any) -> bool:
        """Return whether two states that :meth:`keep` has returned go on in different ways.

        The answer does not rely on what :meth:`add_cpu` and :meth:`add_task` hash.
        """
        ...

    def put(self, cpu: int, kept: Any, spent: int) -> None:
        """Bring one vCPU to the state ``kept``, with nothing but zeros outside of its live stacks.

        :param spent: how many instructions its present call has retired.
        """
        ...

    def add_cpu(self, cpu: int, digest: blake2b) -> None:
        """Add all that decides how the vCPU goes on to a state's hash.

        That is its registers, whether interrupts are held back, and its live stack.
        """
        ...

    def add_task(self, parked: ParkedTask, digest: blake2b) -> None:
        """Add the live stack of a task that does not run to a state's hash.

        All else that the hash needs of the task is in ``parked``.
        """
        ...


class Port(Protocol):
    """A port is a machine that is ready to make its calls."""

    @property
    def cpus(self) -> CpuPort:
        """Return the port of the vCPUs."""
        ...

    @property
    def hits(self) -> HitPort:
        """Return the port of the hits."""
        ...

    @property
    def text(self) -> TextPort:
        """Return the port of the text."""
        ...

    @property
    def memory(self) -> MemoryPort:
        """Return the port of the memory."""
        ...

    @property
    def unprobed(self) -> UnprobedPort:
        """Return the port of calls without probes, which come before an exploration begins."""
        ...

    @property
    def own_code(self) -> OwnCode:
        """Return which modules are the project's own."""
        ...

    def close(self) -> None:
        """Release the machine. No part of the port may be used after that."""
        ...
