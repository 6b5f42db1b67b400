"""Faults of text_poke(), ftrace and the alternatives, from the kernel's history.

They answer to commits of arch/x86/kernel/alternative.c, ftrace.c and kprobes.
"""

from __future__ import annotations

from arch_x86.explore.exhibits.patched_code import NOP5, function
from arch_x86.explore.scenario import Control, Scenario, Setup, scenario
from arch_x86.explore.scenarios.images import TOY
from arch_x86.protocols.protocol import PatchProtocol
from arch_x86.protocols.protocol_poke import BYTE_SYNC, poke_factory
from arch_x86.protocols.text_poke_arrays import text_poke_bp_5_4, text_poke_bp_5_6
from arch_x86.protocols.text_pokes import text_poke_bp
from engine.patching.exhibit import Exhibit, PatchCase, ScenarioCase
from engine.search.explorable import ViolationKind

__all__ = ("POKE_FAULTS",)

_PROFILE = "linux-6.1"


def _probes(
    protocol: PatchProtocol, *without: str, stays: bool, fetch: str = "coherent"
) -> ScenarioCase:
    """Return a scenario in which a probe is optimized, and maybe another one keeps a breakpoint.

    :param protocol: the patch protocol that writes the jump.
    :param without: the steps of it that are left out.
    :param stays: there is another probe, whose breakpoint CPUs hit meanwhile.
    """

    def build(setup: Setup) -> None:
        @setup.control
        def main(k: Control) -> None:
            other = [k.kprobe("work", 2)] if stays else []
            optimized = k.kprobe("work", 4)
            for one in (*other, optimized):
                k.register(one)
            k.settle()
            k.unregister(optimized, *other)
            k.settle()

    build.__name__ = "two_probes" if stays else "one_probe"
    made: Scenario = scenario(
        image=TOY,
        call="work",
        arguments=("5",),
        calls=1,
        cpus=1,
        preemptions=1,
        fetch=fetch,
        profiles=(_PROFILE,),
        poke=poke_factory(protocol, frozenset(without)),
    )(build)
    left_out = f" without {', '.join(without)}" if without else ""
    return ScenarioCase(scenario=made, profile=_PROFILE, by=f"{protocol.name}{left_out}")


def _call(*without: str) -> PatchCase:
    """Return the change of a call of one function to a call of another, as ftrace does it."""
    return PatchCase(
        image=function("call g"),
        sites=("f+0x3",),
        codes=("call:h",),
        protocol="ftrace_replace_code",
        without=without,
    )


def _two_sites(*without: str) -> PatchCase:
    """Return the patch of a site while one at a higher address waits in the array."""
    return PatchCase(
        image=function(f"{NOP5}\n {NOP5}"),
        sites=("f+0x3", "f+0x8"),
        codes=("call:g", "call:h"),
        protocol="smp_text_poke_single",
        without=without,
    )


def _traced(site: str, old: str) -> PatchCase:
    """Return the change of ``site`` to a call while no CPU runs, with preemption.

    :param old: what ``site`` is, in words.
    """
    return PatchCase(
        image=function(site),
        sites=("f+0x3",),
        codes=("call:g",),
        old=old,
        protocol="text_poke_smp",
        preempt=True,
    )


def _padding(*without: str) -> PatchCase:
    """Return the change of three no-ops of one byte to one of three bytes."""
    return PatchCase(
        image=function("nop\n nop\n nop"),
        sites=("f+0x3",),
        codes=("0f 1f 00",),
        protocol="text_poke_smp",
        without=without,
    )


def _returns_0(site: str, old: str) -> PatchCase:
    """Return the change of ``site``, which returns 0, to a call, with preemption.

    :param old: what ``site`` is, in words.
    """
    return PatchCase(
        image=function(site),
        sites=("f+0x3",),
        codes=("call:g",),
        old=old,
        protocol="text_poke_bp",
        preempt=True,
    )


POKE_FAULTS = (
    Exhibit(
        name="732f3ca7d4ba",
        year=2008,
        title="ftrace: a no-op of two parts",
        told=(
            "The no-op of five bytes that ftrace wrote was two instructions, and a task could be"
            " preempted between them.",
            "As stop_machine() does not wait for such a task, it went on in the middle of the call"
            " that had been written over both.",
        ),
        source="Linux commit 732f3ca7d4ba",
        faulty=_traced(".byte 0x66, 0x90\n .byte 0x0f, 0x1f, 0x00", "a no-op of two parts"),
        mended=_traced(NOP5, "a no-op of one part"),
        kind=ViolationKind.TORN,
    ),
    Exhibit(
        name="9e298e860408",
        year=2019,
        title="ftrace/x86_64: Emulate call function while updating in breakpoint handler",
        told=(
            "While ftrace changed a call of one trampoline to a call of another one, its handler of"
            " breakpoints skipped the call.",
            "A CPU that hit the breakpoint made neither call, so that a function which live"
            " patching had replaced ran in its old form.",
        ),
        source="Linux commit 9e298e860408 (v5.2)",
        faulty=_call("emulate-call"),
        mended=_call(),
        kind=ViolationKind.WRONG_RESULT,
    ),
    Exhibit(
        name=BYTE_SYNC,
        year=2019,
        title="x86/kprobes: Fix ordering while text-patching",
        told=(
            "No core sync followed the breakpoint of a probe, so a CPU might not have fetched it"
            " when the optimizer's wait was over.",
            "That CPU executed the original instruction, and stood in the middle of the bytes that"
            " the jump was then written to.",
        ),
        source="Linux commit 5c02ece81848 (v5.5)",
        faulty=_probes(text_poke_bp, BYTE_SYNC, stays=False, fetch="stale"),
        mended=_probes(text_poke_bp, stays=False, fetch="stale"),
        kind=ViolationKind.TORN,
    ),
    Exhibit(
        name="285a54efe386",
        year=2019,
        title="x86/alternatives: Sync bp_patching update for avoiding NULL pointer exception",
        told=(
            "When a poke was over, the pointer to its entries was cleared before their count, and"
            " nothing waited for CPUs in the handler of breakpoints.",
            "A CPU that had hit a probe's breakpoint read a count that was not 0, and then a"
            " pointer that was NULL.",
        ),
        source="Linux commit 285a54efe386 (v5.5)",
        faulty=_probes(text_poke_bp_5_4, "count-first", stays=True),
        mended=_probes(text_poke_bp_5_4, stays=True),
        kind=ViolationKind.GUEST_FAULT,
    ),
    Exhibit(
        name="1cd5f059d956",
        year=2022,
        title="x86,static_call: Fix __static_call_return0 for i386",
        told=(
            "The bytes that return 0 in place of a static call were one instruction on x86-64, and"
            " two on i386, where a task could be preempted between them.",
            "When a call took the place of both, the task went on in the middle of it.",
        ),
        source="Linux commit 1cd5f059d956 (v5.18)",
        faulty=_returns_0(".byte 0x66, 0x66, 0x90\n xor eax, eax", "two instructions"),
        mended=_returns_0(".byte 0x2e, 0x2e, 0x2e, 0x31, 0xc0", "one instruction"),
        kind=ViolationKind.TORN,
    ),
    Exhibit(
        name="efd608fa7403",
        year=2022,
        title="x86/alternative: Fix race in try_get_desc()",
        told=(
            "The descriptor of a poke was on the poker's stack, and the handler of breakpoints read"
            " the pointer to it before it took a reference.",
            "A CPU that had hit a probe's breakpoint did the one before the poke was over and the"
            " other behind it, when the stack was something else's.",
        ),
        source="Linux commit efd608fa7403 (v6.0)",
        faulty=_probes(text_poke_bp_5_6, "static-descriptor", stays=True),
        mended=_probes(text_poke_bp_5_6, stays=True),
        kind=ViolationKind.GUEST_FAULT,
    ),
    Exhibit(
        name="2dc419613805",
        year=2023,
        title="x86/alternatives: Disable interrupts and sync when optimizing NOPs in place",
        told=(
            "At boot, no-ops of one byte were replaced by a longer one in place, byte by byte, with"
            " interrupts allowed and without a sync.",
            "An interrupt handler that ran the code met half of the new instruction.",
        ),
        source="Linux commit 2dc419613805 (v6.7)",
        faulty=_padding("stop-machine"),
        mended=_padding(),
        kind=ViolationKind.TORN,
    ),
    Exhibit(
        name="2aebf5ee43bf",
        year=2025,
        title="x86/alternatives: Fix int3 handling failure from broken text_poke array",
        told=(
            "A single poke put its entry behind those that waited in the array, without a flush,"
            " though its address was below theirs.",
            "The handler of breakpoints looks the address up by bisection, which needs a sorted"
            " array, and missed an entry: the breakpoint was nobody's.",
        ),
        source="Linux commit 2aebf5ee43bf (v6.16)",
        faulty=_two_sites("flush-out-of-order"),
        mended=_two_sites(),
        kind=ViolationKind.GUEST_FAULT,
    ),
)
"""The faults, in the order of their years."""
