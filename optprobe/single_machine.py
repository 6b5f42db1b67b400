"""The commands ``run``, ``verify`` and ``inspect`` as functions."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path

from arch_x86.emu.execute import InterruptPlan
from arch_x86.emu.sigint import interruptible
from arch_x86.lab.jobs import VerifyResult, verify_image
from arch_x86.lab.redzone import with_red_zone
from arch_x86.lab.run import ExecOptions, RunResult, run_image
from arch_x86.lab.verify import Sweep, parse_sweep
from arch_x86.probes.code import CodeCache
from arch_x86.probes.inspect import FunctionReport, named_functions
from engine import defaults
from engine.image import Image
from engine.syntax.arguments import Argument, parse_number
from engine.syntax.interrupts import parse_interrupts
from optprobe.inputs import (
    CallArgument,
    ImageLike,
    Number,
    ProbeLike,
    ProfileLike,
    Stubs,
    as_arguments,
    as_image,
    as_specs,
    exec_options,
    warn_of,
)

__all__ = ("inspect", "run", "verify")


def run(
    image: ImageLike,
    *,
    call: str,
    arguments: Sequence[CallArgument] = (),
    probes: Sequence[ProbeLike] = (),
    interrupts: str | InterruptPlan | None = defaults.INTERRUPTS,
    optimize: bool = True,
    profile: ProfileLike = defaults.PROFILE,
    cpus: Number = defaults.CPUS,
    max_instructions: Number = defaults.MAX_INSTRUCTIONS,
    stubs: Stubs = (),
    libraries: Sequence[str | Path] = (),
    red_zone: str = defaults.RED_ZONE,
    check_alignment: bool = False,
) -> RunResult:
    """Register probes, wait for the optimizer, call a function on each vCPU, and report.

    This is what ``optprobe run`` does.

    :param call: the function's name, or its address as a text (``0x...``).
    :param arguments: ints, floats, bytes (a fresh buffer a vCPU), or texts as of ``--arg``.
    :param probes: the places of probes, as of ``--probe``: ``"work+0x4"``, ``"r work"``, ``"p:hot
        work+4"``.
    :param interrupts: ``"none"``, ``"every:N"`` or ``"random:SEED:MEAN"``, in retired instructions.
    :param optimize: False keeps all probes breakpoints.
    :param profile: the name of a profile, or a profile.
    :param max_instructions: the most instructions that each call may retire.
    :param stubs: functions that the image calls and does not define, and that return a number: by
        name, or texts as of ``--stub``.
    :param libraries: shared libraries that define what the image lacks.
    :param red_zone: whether the code keeps data below RSP: ``"yes"``, ``"no"`` or ``"auto"``.
    :param check_alignment: a memory operand that has to be aligned and is not is a fault; slow.
    :returns: the results of calls and probes; a guest fault is in its ``fault``.
    :raises InputError: one of the parameters is wrong.
    :raises KprobeError: a probe is refused.
    """
    options = exec_options(profile, cpus, max_instructions, stubs, check_alignment)
    given, specs = as_arguments(arguments), as_specs(probes)
    plan = parse_interrupts(interrupts) if isinstance(interrupts, str) else interrupts
    loaded = _executed(image, call, given, options, libraries, red_zone)
    with interruptible():
        return run_image(
            loaded, call, given, specs, interrupts=plan, optimize=optimize, options=options
        )


def verify(
    image: ImageLike,
    *,
    call: str,
    arguments: Sequence[CallArgument] = (),
    interrupts: str | Sweep = defaults.INTERRUPTS,
    profile: ProfileLike = defaults.PROFILE,
    max_instructions: Number = defaults.MAX_INSTRUCTIONS,
    stubs: Stubs = (),
    libraries: Sequence[str | Path] = (),
    red_zone: str = defaults.RED_ZONE,
    check_alignment: bool = False,
    jobs: Number = defaults.JOBS,
    progress: Callable[[int, int, str], None] | None = None,
) -> VerifyResult:
    """Probe each instruction that a call executes, by every method, and compare with no probe.

    This is what ``optprobe verify`` does. There is one probe at a time.

    :param interrupts: ``"none"``, ``"boundaries"`` or ``"sample:SEED:N"``.
    :param jobs: the number of processes; the result does not depend on it.
    :param progress: called as ``progress(done, total, note)``.
    :returns: all failures; a guest fault of the unprobed call is in its ``fault``. After Ctrl-C, or
        when a process of ``jobs`` has died, which is in its ``died``, it has what was found by
        then, and is ``interrupted``.
    :raises InputError: one of the parameters is wrong; :func:`run` has the others.
    """
    options = exec_options(profile, defaults.CPUS, max_instructions, stubs, check_alignment)
    processes = parse_number(str(jobs), "--jobs", least=1, most=256)
    given = as_arguments(arguments)
    sweep = parse_sweep(interrupts) if isinstance(interrupts, str) else interrupts
    loaded = _executed(image, call, given, options, libraries, red_zone)
    with interruptible():
        return verify_image(
            loaded, call, given, sweep=sweep, options=options, jobs=processes, progress=progress
        )


def inspect(
    image: ImageLike,
    symbol: str | None = None,
    *,
    libraries: Sequence[str | Path] = (),
    buffers: bool = False,
) -> list[FunctionReport]:
    """Report where probes and jumps can go in functions, as Linux 6.1 would answer.

    Each report keeps what was decoded of its function, about 200 bytes for each byte of code, so
    ask for the functions of a large library one by one.

    :param symbol: the name of the functions; None for all.
    :param libraries: shared libraries to look at, too.
    :param buffers: whether each site also has its ``slot`` and its ``detour``.
    :returns: one report a function, in the order of addresses; its ``sites`` has one entry for each
        byte.
    :raises InputError: the image can't be loaded, or has no such function.
    """
    loaded = as_image(image, libraries=libraries, executes=False)
    cache = CodeCache(loaded)
    return [
        FunctionReport(cache, found, buffers=buffers) for found in named_functions(loaded, symbol)
    ]


def _executed(
    image: ImageLike,
    call: str,
    arguments: Sequence[Argument],
    options: ExecOptions,
    libraries: Sequence[str | Path],
    red_zone: str,
) -> Image:
    """The image, with a red zone where the call without probes shows that it has one."""
    loaded = as_image(image, libraries=libraries, stubs=options.stubs)
    known, line = with_red_zone(
        loaded, red_zone, [(call, arguments)], options.machine, options.max_instructions
    )
    if line is not None:
        warn_of(loaded, line)
    return known
