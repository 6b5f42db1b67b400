"""The global switches: sysctl debug.kprobes-optimization and debugfs kprobes/enabled. Answers to
optimize_all_kprobes(), unoptimize_all_kprobes(), arm_all_kprobes() and disarm_all_kprobes() in
kernel/kprobes.c.

Both wait for the optimizer with no lock held that it takes. The commit of 2010 waits with
kprobe_mutex held when optimization is switched off, and never wakes if no pass since boot has left
nothing to do: that is mended in every profile (``--without sysctl-deadlock`` has it again).
"""

from __future__ import annotations

import errno

from engine.core.kprobes import Kprobes
from engine.core.safety_steps import SafetyStep
from engine.errors import KprobeError

__all__ = ("set_kprobes_enabled", "set_kprobes_optimization")


def set_kprobes_optimization(core: Kprobes, *, on: bool) -> None:
    """Allow optimization and queue all that can be optimized, or forbid it, undo every jump and
    wait until that is done.

    Setting what is set already changes nothing.

    :raises KprobeError: ENOENT without CONFIG_OPTPROBES, which has no such switch.
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
    """Arm every probe that is not disabled, or disarm all and wait until no jump is left.

    Setting what is set already changes nothing.
    """
    with core.locked("kprobes enabled"):
        if core.kprobes_all_disarmed is not on:
            return
        if not on or core.profile.has(SafetyStep.ENABLED_1_OPTIMIZES):
            core.kprobes_all_disarmed = not on  # first: arming asks for it before it optimizes
        for p in tuple(core.kprobe_table.values()):
            if p.disabled:
                continue
            if on:
                core.optprobes.arm_kprobe(p)
            else:
                core.optprobes.disarm_kprobe(p)  # without a look at neighbours: they go, too
        core.kprobes_all_disarmed = not on
    if not on:
        _wait(core)


def _wait(core: Kprobes) -> None:
    """Until no jump is left. In the commit of 2010 that waits for the first pass that leaves
    nothing to do at most.
    """
    if not core.profile.has(SafetyStep.COMMIT_AD72B3BEA744):
        core.optimizer.wait_for_completion()
    elif core.profile.waits_for_freeing:
        core.wait_for_kprobe_optimizer()
    else:
        core.optimizer.wait_for_lists()
