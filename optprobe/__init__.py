"""The Python interface: what the command ``optprobe`` does, as functions and objects.

``Machine`` is a machine to experiment with; ``run``, ``verify``, ``inspect``, ``check``,
``explore`` and ``patch`` are the commands of these names. docs/api.md shows how to use them.
Everything is loaded when it is first used, so ``import optprobe`` costs next to nothing.

Errors: bad input raises ``InputError``, and what the kernel would refuse raises ``KprobeError``,
which has its ``errno``. A guest that dies is a ``GuestFault`` in a result; ``Machine.call``, which
returns a call's value, raises it in a ``GuestFaultError``. All of these exceptions are an
``OptprobeError``.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

from engine.version import __version__

if TYPE_CHECKING:
    from arch_x86.emu.fault import FaultKind, GuestFault, GuestFaultError
    from arch_x86.images import load_asm, load_image
    from arch_x86.lab.jobs import VerifyResult
    from arch_x86.lab.run import CallResult, ProbeResult, RunResult
    from arch_x86.lab.verify import Failure
    from arch_x86.probes.inspect import FunctionReport
    from arch_x86.probes.ptregs import PtRegs
    from arch_x86.probes.site_report import SiteReport
    from arch_x86.protocols.protocol import Patch, Patcher, PatchProtocol, protocol
    from arch_x86.text.poke import (
        PokeFactory,
        PokeProtocol,
        StopMachinePoke,
        TextControl,
        TextPokeBp,
        TextPokeParam,
    )
    from arch_x86.text.poke_batch import TextPokeBpBatch
    from arch_x86.text.space import TextSpace
    from engine.core.kprobes import Kprobes
    from engine.core.profiles import LINUX_6_1, LINUX_2010, NEXT, Profile
    from engine.core.safety_steps import SafetyStep
    from engine.errors import (
        Deadlock,
        EngineBug,
        InputError,
        KprobeError,
        OptprobeError,
        UnprobedFault,
        WorkerDied,
    )
    from engine.image import Image, Segment, Symbol
    from engine.instrument import Instrument
    from engine.jprobe import Jprobe
    from engine.kprobe import Kprobe, KprobeFlag, Method
    from engine.kretprobe import Kretprobe, KretprobeInstance
    from engine.patching.check_result import CheckResult, Report
    from engine.patching.operations import Control
    from engine.patching.patch_result import PatchResult
    from engine.patching.patched_sites import PatchedSite
    from engine.patching.scenario_decorator import scenario
    from engine.patching.scenario_record import Scenario, Setup
    from engine.search.actor import Actor, ActorKind
    from engine.search.explorable import Choice, Coverage, Violation, ViolationKind
    from engine.search.schedule import Schedule
    from engine.search.strategy import Strategy
    from optprobe.inputs import profile
    from optprobe.searches import check, explore, patch
    from optprobe.single_machine import inspect, run, verify
    from optprobe.user_machine import Machine

__all__ = (
    "LINUX_6_1",
    "LINUX_2010",
    "NEXT",
    "Actor",
    "ActorKind",
    "CallResult",
    "CheckResult",
    "Choice",
    "Control",
    "Coverage",
    "Deadlock",
    "EngineBug",
    "Failure",
    "FaultKind",
    "FunctionReport",
    "GuestFault",
    "GuestFaultError",
    "Image",
    "InputError",
    "Instrument",
    "Jprobe",
    "Kprobe",
    "KprobeError",
    "KprobeFlag",
    "Kprobes",
    "Kretprobe",
    "KretprobeInstance",
    "Machine",
    "Method",
    "OptprobeError",
    "Patch",
    "PatchProtocol",
    "PatchResult",
    "PatchedSite",
    "Patcher",
    "PokeFactory",
    "PokeProtocol",
    "ProbeResult",
    "Profile",
    "PtRegs",
    "Report",
    "RunResult",
    "SafetyStep",
    "Scenario",
    "Schedule",
    "Segment",
    "Setup",
    "SiteReport",
    "StopMachinePoke",
    "Strategy",
    "Symbol",
    "TextControl",
    "TextPokeBp",
    "TextPokeBpBatch",
    "TextPokeParam",
    "TextSpace",
    "UnprobedFault",
    "VerifyResult",
    "Violation",
    "ViolationKind",
    "WorkerDied",
    "__version__",
    "check",
    "explore",
    "inspect",
    "load_asm",
    "load_image",
    "patch",
    "profile",
    "protocol",
    "run",
    "scenario",
    "verify",
)

_NAMES_OF: Final = {
    "arch_x86.emu.fault": "FaultKind GuestFault GuestFaultError",
    "engine.patching.check_result": "CheckResult Report",
    "engine.patching.operations": "Control",
    "engine.patching.patch_result": "PatchResult",
    "engine.patching.patched_sites": "PatchedSite",
    "engine.patching.scenario_decorator": "scenario",
    "engine.patching.scenario_record": "Scenario Setup",
    "arch_x86.images": "load_asm load_image",
    "arch_x86.lab.jobs": "VerifyResult",
    "arch_x86.lab.run": "CallResult ProbeResult RunResult",
    "arch_x86.lab.verify": "Failure",
    "arch_x86.probes.inspect": "FunctionReport",
    "arch_x86.probes.ptregs": "PtRegs",
    "arch_x86.probes.site_report": "SiteReport",
    "arch_x86.protocols.protocol": "Patch PatchProtocol Patcher protocol",
    "arch_x86.text.poke": (
        "PokeFactory PokeProtocol StopMachinePoke TextControl TextPokeBp TextPokeParam"
    ),
    "arch_x86.text.poke_batch": "TextPokeBpBatch",
    "arch_x86.text.space": "TextSpace",
    "engine.core.kprobes": "Kprobes",
    "engine.core.profiles": "LINUX_2010 LINUX_6_1 NEXT Profile",
    "engine.core.safety_steps": "SafetyStep",
    "engine.errors": (
        "Deadlock EngineBug InputError KprobeError OptprobeError UnprobedFault WorkerDied"
    ),
    "engine.image": "Image Segment Symbol",
    "engine.instrument": "Instrument",
    "engine.jprobe": "Jprobe",
    "engine.kprobe": "Kprobe KprobeFlag Method",
    "engine.kretprobe": "Kretprobe KretprobeInstance",
    "engine.search.actor": "Actor ActorKind",
    "engine.search.explorable": "Choice Coverage Violation ViolationKind",
    "engine.search.schedule": "Schedule",
    "engine.search.strategy": "Strategy",
    "optprobe.inputs": "profile",
    "optprobe.user_machine": "Machine",
    "optprobe.searches": "check explore patch",
    "optprobe.single_machine": "inspect run verify",
}
"""The modules that define the names of this one."""

# A type checker takes the imports above, and says so where a name is not there.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Load a name when it is first asked for."""
        from importlib import import_module

        for module, names in _NAMES_OF.items():
            if name in names.split():
                found = globals()[name] = getattr(import_module(module), name)
                return found
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
