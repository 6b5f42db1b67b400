"""The two global switches of kprobes. Answers to kernel/kprobes.c.

They are the sysctl debug.kprobes-optimization (optimize_all_kprobes(), unoptimize_all_kprobes())
and the file kprobes/enabled in debugfs (arm_all_kprobes(), disarm_all_kprobes()).

Both wait for the optimizer after they have dropped their locks, since a pass takes the same locks.
The commit of 2010 waits with kprobe_mutex held when optimization is switched off, and never wakes
unless a pass since boot has left nothing to do. That is mended in every profile; ``--without
sysctl-deadlock`` brings it back.
"""

from __future__ import annotations

import errno

from engine.core.kprobes import Kprobes
from engine.core.safety_steps import SafetyStep
from engine.errors import KprobeError

__all__ = ("set_kprobes_enabled", "set_kprobes_optimization")


def set_kprobes_optimization(core: Kprobes, *, on: bool) -> None:
    """Allow the optimization of probes, or forbid it.

    Allowing it puts all probes that can be optimized on the optimizer's list. Forbidding it undoes
    every jump and waits until that is done. Setting the value that is set already changes nothing.

    :raises KprobeError: ENOENT without CONFIG_OPTPROBES, where there is no such switch.
    """
    if not core.profile.optprobes:
        raise KprobeError(
            errno.ENOENT,
            "debug.kprobes-optimization: this kernel is built without CONFIG_OPTPROBES",
        )
    with core.locked("kprobes-optimization"):
        if core.kprobes_allow_optimization is on:
            return
        core.kprobes_allow_optimization = on
        for p in tuple(core.kprobe_table.values()):
            if p.disabled:
                continue
            if on:
                core.optprobes.optimize_kprobe(p)
            else:
                core.optprobes.unoptimize_kprobe(p)
        if not on and not core.profile.has(SafetyStep.SYSCTL_DEADLOCK):
            core.optimizer.wait_for_completion()
    if not on:
        _wait(core)


def set_kprobes_enabled(core: Kprobes, *, on: bool) -> None:
    """Arm every probe that is not disabled, or disarm all probes.

    Disarming them waits until no jump is left. Setting the value that is set already changes
    nothing.
    """
    with core.locked("kprobes enabled"):
        if core.kprobes_all_disarmed is not on:
            return
        if not on or core.profile.has(SafetyStep.ENABLED_1_OPTIMIZES):
            # The switch changes before the probes do, since what they do depends on it:
            # optimize_kprobe() refuses a probe while all are disarmed, and a jump is undone to the
            # original byte only then.
            core.kprobes_all_disarmed = not on
        for p in tuple(core.kprobe_table.values()):
            if p.disabled:
                continue
            if on:
                core.optprobes.arm_kprobe(p)
            else:
                # Nothing looks for neighbours that could be optimized now, since they are disarmed
                # as well.
                core.optprobes.disarm_kprobe(p)
        core.kprobes_all_disarmed = not on
    if not on:
        _wait(core)


def _wait(core: Kprobes) -> None:
    """Wait until no jump is left.

    The commit of 2010 waits at most for the first pass since boot that leaves nothing to do, and
    6.1 does not wait for the breakpoints of probes on the freeing list.
    """
    if not core.profile.has(SafetyStep.COMMIT_AD72B3BEA744):
        core.optimizer.wait_for_completion()
    elif core.profile.waits_for_freeing:
        core.wait_for_kprobe_optimizer()
    else:
        core.optimizer.wait_for_lists()
