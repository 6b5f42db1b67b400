"""Experiments that show what each step of a patch protocol is for, for ``make necessity``.

A case is code whose site lies at a chosen offset of a line of 64 bytes, and a control task that
replaces it by a protocol: by the protocol alone, or as kprobes do that write by it.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field, replace
from typing import Final

from arch_x86.explore.exhibits.patched_code import (
    NOP5,
    TRAMPOLINE,
    UPROBE_SITE,
    call_of_start,
    function,
)
from arch_x86.explore.x86_setup import X86Setup
from arch_x86.protocols.protocol_names import OF_THE_POKE, protocol_named
from engine.core.profiles import LINUX_6_1, LINUX_2010, NEXT, Profile
from engine.core.safety_steps import STEPS, SafetyStep
from engine.image import Image, Reserved, ReservedKind
from engine.patching.control_code import ControlCode
from engine.patching.experiment import Experiment
from engine.patching.make_experiment import experiment_of_patch, experiment_of_request
from engine.patching.operations import Control
from engine.patching.patch_spec import PatchSpec
from engine.patching.request import Request
from engine.syntax.arguments import parse_argument

__all__ = ("SUBJECTS", "Cell", "Subject")


@dataclass(frozen=True, slots=True)
class Cell:
    """What differs from cell to cell of the table.

    :ivar fetch: the name of the fetch model.
    :ivar at: the offset of the site in its line.
    :ivar preempt: whether tasks are preempted.
    :ivar step: the name of the step that is left out, or None.
    """

    fetch: str
    at: int
    preempt: bool
    step: str | None

    @property
    def without(self) -> tuple[str, ...]:
        """The steps that are left out."""
        return () if self.step is None else (self.step,)


Case = Callable[[str, Cell], Experiment]
"""Makes the experiment of a protocol, given the protocol's name and the cell."""


@dataclass(frozen=True, slots=True)
class Subject:
    """A protocol, or kprobes that use their profile's own.

    :ivar name: the name of the protocol, or of the profile.
    :ivar steps: the steps that can be left out.
    :ivar cases: the experiments that are searched one after the other.
    :ivar preempted: those of them that are searched where tasks are preempted, which makes a search
        ten times as long.
    :ivar also: an experiment that is searched besides, by the step that it shows.
    """

    name: str
    steps: tuple[str, ...]
    cases: tuple[Case, ...]
    preempted: tuple[Case, ...]
    also: Mapping[str | None, Case] = field(default_factory=dict[str | None, Case])

    def of(self, cell: Cell) -> tuple[Case, ...]:
        """Return the experiments of ``cell``."""
        cases = self.preempted if cell.preempt else self.cases
        return (*cases, self.also[cell.step]) if cell.step in self.also else cases


def _patch(name: str, cell: Cell, image: str, spec: PatchSpec) -> Experiment:
    """Return the experiment of ``optprobe patch``, in ``cell``."""
    port = X86Setup()
    request = Request(
        image=port.scenario_image(image),
        call="f",
        arguments=("5",),
        calls=1,
        preempt=cell.preempt,
        fetch=cell.fetch,
    )
    return experiment_of_patch(request, replace(spec, protocol=name, without=cell.without), port)


def _sites(*places: str, code: str, back: bool = True, **fields: object) -> PatchSpec:
    """Return what is replaced at ``places``."""
    return PatchSpec(sites=places, codes=(code,), back=back, protocol="", **fields)  # pyright: ignore[reportArgumentType]


def one_site(name: str, cell: Cell) -> Experiment:
    """A no-op becomes a call, and a no-op again."""
    return _patch(name, cell, function(NOP5, at=cell.at), _sites("f+0x3", code="call:g"))


def two_sites(name: str, cell: Cell) -> Experiment:
    """Two no-ops become calls."""
    image = function(f"{NOP5}\n {NOP5}", at=cell.at)
    return _patch(name, cell, image, _sites("f+0x3", "f+0x8", code="call:g", back=False))


def traced_call(name: str, cell: Cell) -> Experiment:
    """A call of one trampoline becomes a call of another one."""
    image = function("call g", at=cell.at, behind=_NEAR)
    return _patch(name, cell, image, _sites("f+0x3", code="call:near"))


_NEAR: Final = """
near: add ebx, 1000
 ret
"""


def uprobe(name: str, cell: Cell) -> Experiment:
    """A no-op of ten bytes becomes an optimized uprobe, and a no-op again."""
    image = function(UPROBE_SITE, TRAMPOLINE, cell.at)
    code = "488d642480" + call_of_start(10, cell.at)
    return _patch(name, cell, image, _sites("f+0x3", code=code))


def hooked(name: str, cell: Cell) -> Experiment:
    """A jump to a copy takes the place of three instructions, which come back."""
    image = _HOOK.format(cell.at)
    return _patch(name, cell, image, _sites("f", code="jmp:hook", moves=_MOVES, lock=_LOCK))


_HOOK: Final = """
hook:
copy:
 push rbx
 mov ebx, edi
 add ebx, 1
 jmp rest
.skip 70000, 0xcc
.p2align 6
.skip {}, 0xcc
f:
 push rbx
 mov ebx, edi
 add ebx, 1
rest:
 lea eax,[rbx+1]
 pop rbx
 ret
"""
_MOVES: Final = ("f+0x1:copy+0x1", "f+0x3:copy+0x3")
_LOCK: Final = "f+0x6..f+0xa"

# kprobes ------------------------------------------------------------------------------------------

_PROBED: Final = """
.p2align 6
.skip {}, 0xcc
f:
 push rbx
 mov ebx, edi
 lea eax, [rdi + rdi]
 lea ecx, [rax + 1]
 pop rbx
 ret
"""
"""The five bytes of a jump at ``f+0x3`` are 8d 04 3f 8d 48, which all differ from the jump's."""
_SITE: Final = 3


def _optimized(k: Control) -> None:
    """A probe is optimized, and goes."""
    p = k.kprobe("f", _SITE)
    k.register(p)
    k.settle()
    k.unregister(p)
    k.settle()


def _beside(k: Control) -> None:
    """A probe is optimized and goes, beside one that keeps its breakpoint."""
    other, optimized = k.kprobe("f", 1), k.kprobe("f", _SITE)
    k.register(other)
    k.register(optimized)
    k.settle()
    k.unregister(optimized, other)
    k.settle()


def _two_passes(k: Control) -> None:
    """A probe is optimized, and then another one, so that there are two pokes."""
    first, second = k.kprobe("f", _SITE), k.kprobe("f", 9)
    k.register(first)
    k.settle()
    k.register(second)
    k.settle()
    k.unregister(first, second)
    k.settle()


def _of_ftrace(k: Control) -> None:
    """A probe that is made of ftrace comes and goes."""
    p = k.kprobe("f", 0)
    k.register(p)
    k.unregister(p)


def _image(cell: Cell, *, traced: bool) -> Image:
    """Return ``f``, whose site, or whose place for ftrace, is at the cell's offset."""
    if not traced:
        return X86Setup().scenario_image(_PROBED.format(cell.at - _SITE))
    loaded = X86Setup().scenario_image(_TRACED.format(cell.at))
    addr = loaded.by_name["f"].addr
    return replace(loaded, reserved=(Reserved(addr, 5, ReservedKind.FTRACE_SITE),))


_TRACED: Final = """
fentry: ret
.skip 70000, 0xcc
.p2align 6
.skip {}, 0xcc
f:
 call fentry
 mov eax, edi
 add eax, 3
 ret
"""
"""``f`` begins with the call that ftrace changes."""


def _kprobes(
    cell: Cell, code: ControlCode, profile: Profile, protocol: str | None, *, traced: bool = False
) -> Experiment:
    port = X86Setup()
    image = _image(cell, traced=traced)
    poke, others = None, cell.without
    if protocol is not None:
        poke, others = port.poke_by(protocol, cell.without)
    request = Request(
        image=image,
        call="f",
        arguments=("5",),
        calls=1,
        preempt=cell.preempt,
        fetch=cell.fetch,
        profile=profile,
        without=others,
        poke=poke,
    )
    return experiment_of_request(
        request, port, image=image, arguments=_FIVE, code=[("main", code)], tag="necessity"
    )


_FIVE: Final = (parse_argument("5"),)


def _case(code: ControlCode, profile: Profile, *, own: bool = True, traced: bool = False) -> Case:
    """Return the case of kprobes in ``profile``.

    :param own: they write by the protocol of the profile, and else by the one that is named.
    """
    return lambda name, cell: _kprobes(cell, code, profile, None if own else name, traced=traced)


def _bare(name: str, *cases: Case) -> Subject:
    """Return a protocol alone; where tasks are preempted, only the last case is searched."""
    return Subject(name, tuple(protocol_named(name).steps), cases, cases[-1:])


def _array(name: str, step: str) -> Subject:
    """Return a protocol with an array of pokes.

    :param step: what it does so that its handler can be asked about the breakpoint of a probe.
    """
    probes = _case(_beside, LINUX_6_1, own=False)
    return replace(_bare(name, one_site, two_sites), also={step: probes})


def _profile(profile: Profile) -> Subject:
    # A profile's other steps are no matter of its poke protocol.
    steps = tuple(
        one.name for one in STEPS if profile.name in one.profiles and one.name in OF_THE_POKE
    )
    one, traced = _case(_optimized, profile), _case(_of_ftrace, profile, traced=True)
    passes: dict[str | None, Case] = {SafetyStep.BP_REFS.value: _case(_two_passes, profile)}
    cases = (traced, one)
    return Subject(f"kprobes of {profile.name}", steps, cases, cases, passes)


SUBJECTS: Final = (
    _bare("text_poke", one_site),
    _bare("text_poke_smp", one_site),
    _bare("text_poke_smp_batch", one_site, two_sites),
    _bare("text_poke_bp", one_site),
    _bare("text_poke_bp_batch", one_site, two_sites),
    _array("text_poke_bp_5_4", "count-first"),
    _array("text_poke_bp_5_6", "static-descriptor"),
    _bare("smp_text_poke_batch", one_site, two_sites),
    _bare("smp_text_poke_single", one_site, two_sites),
    _bare("ftrace_replace_code", one_site, traced_call),
    _bare("hlt_first", one_site),
    _bare("uprobe_nop10", uprobe),
    _bare("freeze_and_move", hooked),
    _bare("stop_by_fault", one_site),
    *map(_profile, (LINUX_2010, LINUX_6_1, NEXT)),
)
"""The rows of the table, in their order."""
