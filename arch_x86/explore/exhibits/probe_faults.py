"""Faults of kprobes, static branches and static calls, from the kernel's history, as scenarios.

What two users of one place do to each other is here, too.
"""

from __future__ import annotations

from arch_x86.explore.scenarios import foreign, history, static_call_keys, static_keys
from engine.patching.exhibit import Exhibit, ScenarioCase
from engine.patching.scenario_record import Scenario
from engine.search.explorable import ViolationKind

__all__ = ("BRANCH_FAULTS", "CALL_FAULTS", "PROBE_FAULTS", "TWO_USERS")


def _exhibit(
    scenario: Scenario,
    year: int,
    title: str,
    told: tuple[str, str],
    kind: ViolationKind,
    *,
    source: str,
    profile: str = "linux-6.1",
) -> Exhibit:
    """Return the exhibit of a scenario that fails without the step that has its name."""
    return Exhibit(
        name=scenario.name,
        year=year,
        title=title,
        told=told,
        source=source,
        faulty=ScenarioCase(scenario=scenario, profile=profile, without=scenario.steps),
        mended=ScenarioCase(scenario=scenario, profile=profile),
        kind=kind,
        preemptions=scenario.preemptions,
    )


def _count(scenario: Scenario, year: int, title: str, told: tuple[str, str]) -> Exhibit:
    """Return the exhibit of a static branch whose count goes wrong."""
    return Exhibit(
        name=scenario.name,
        year=year,
        title=title,
        told=told,
        source=f"Linux commit {scenario.name}",
        faulty=ScenarioCase(scenario=scenario, profile="linux-6.1"),
        mended=ScenarioCase(scenario=static_keys.static_key, profile="linux-6.1"),
        kind=ViolationKind.WRONG_RESULT,
        preemptions=0,
    )


PROBE_FAULTS = (
    _exhibit(
        history.sysctl_deadlock,
        2010,
        "kprobes: Support delayed unoptimizing",
        (
            "Writing 0 to kprobes-optimization waits for the optimizer while the mutex is held that"
            " the optimizer takes.",
            "Before the optimizer's first pass since boot is over, neither goes on, ever.",
        ),
        ViolationKind.DEADLOCK,
        source="Linux commit 6274de4984a6 (v2.6.38)",
        profile="linux-2010",
    ),
    _exhibit(
        history.f66c0447cca1,
        2020,
        "kprobes: Set unoptimized flag after unoptimizing code",
        (
            "The flag that says that a probe is a jump was cleared before the jump's bytes were"
            " gone.",
            "A CPU that hit the breakpoint over the rest of the jump went on behind the first"
            " instruction, in the middle of that rest.",
        ),
        ViolationKind.TORN,
        source="Linux commit f66c0447cca1 (v5.6)",
    ),
    _exhibit(
        history.e4add247789e,
        2020,
        "kprobes: Fix optimize_kprobe()/unoptimize_kprobe() cancellation logic",
        (
            "A decision to optimize was taken back by what the probe's flag said, and not by the"
            " list that the probe was on.",
            "A probe that was unregistered and registered again before the optimizer ran had a flag"
            " that disagreed with its list.",
        ),
        ViolationKind.TORN,
        source="Linux commit e4add247789e (v5.6)",
    ),
    _exhibit(
        history.dec8784c9088,
        2022,
        "x86/kprobes: Update kcb status flag after singlestepping",
        (
            "A single step that was over left its status behind, unless the probe had a"
            " post_handler.",
            "When the CPU hit another user's breakpoint, kprobes took that for the end of the step,"
            " and read the probe of a hit through a pointer that was NULL.",
        ),
        ViolationKind.GUEST_FAULT,
        source="Linux commit dec8784c9088 (v6.0)",
    ),
    _exhibit(
        history.x868a6fc0ca24,
        2023,
        "x86/kprobes: Fix __recover_optprobed_insn check optimizing logic",
        (
            "The original bytes under a jump that waited to be undone were not recovered when a"
            " neighbour was registered.",
            "The neighbour took the jump's bytes for the original code, and put a copy of them into"
            " its detour buffer.",
        ),
        ViolationKind.TORN,
        source="Linux commit 868a6fc0ca24 (v6.3)",
        profile="next",
    ),
    _exhibit(
        history.f1c97a1b4ef7,
        2023,
        "x86/kprobes: Fix arch_check_optimized_kprobe check within optimized_kprobe range",
        (
            "A disabled probe whose jump was still to be undone did not count as one that is in the"
            " way of a new jump.",
            "The detour buffer of the new probe returned into the middle of the jump that still"
            " stood.",
        ),
        ViolationKind.TORN,
        source="Linux commit f1c97a1b4ef7 (v6.3)",
    ),
    _exhibit(
        history.x4fbd2f83fda0,
        2023,
        "kprobes: Fix to handle forcibly unoptimized kprobes on freeing_list",
        (
            "A probe that another one inside of its bytes had forced back while it waited to be"
            " undone was on the freeing list alone.",
            "With nothing else to undo, the optimizer ended early and never cleaned it up.",
        ),
        ViolationKind.INVARIANT,
        source="Linux commit 4fbd2f83fda0 (v6.3)",
    ),
)
"""Faults of kprobes, each of which shows without the step that mends it."""

BRANCH_FAULTS = (
    _count(
        static_keys.x83ab38ef0a0b,
        2024,
        "jump_label: Fix concurrency issues in static_key_slow_dec()",
        (
            "Taking 1 from a key's count that was 0 made it -1, which stands for a key that is"
            " being switched on.",
            "Who switched the key on behind that believed that somebody else was patching the code,"
            " and found the branch not taken.",
        ),
    ),
    _count(
        static_keys.x224fa3552029,
        2024,
        "jump_label: Fix the fix, brown paper bags galore",
        (
            "A comparison asked whether the old count was not 0, where it had to ask whether it was"
            " 1.",
            "A key that another task had switched on meanwhile was switched off all the same, and"
            " its count did not go down.",
        ),
    ),
    _count(
        static_keys.x1d7f856c2ca4,
        2024,
        "jump_label: Fix static_key_slow_dec() yet again",
        (
            "The count was read without the lock, was 1, and had become 2 when the lock was held:"
            " then nothing took the 1.",
            "Two tasks that did not need the branch any more left the count at 1, and the branch"
            " taken.",
        ),
    ),
)
"""Faults of the count of a static branch's key, each mended by the next commit."""

CALL_FAULTS = (
    Exhibit(
        name=static_call_keys.fa68bd09fc62.name,
        year=2021,
        title="kprobe/static_call: Restore missing static_call_text_reserved()",
        told=(
            "The check that keeps probes off static calls was lost in a merge, so that a probe"
            " could be put on one.",
            "An update of the static call wrote over the breakpoint of the probe, which was"
            " registered and not hit any more.",
        ),
        source="Linux commit fa68bd09fc62 (v5.14)",
        faulty=ScenarioCase(scenario=static_call_keys.fa68bd09fc62, profile="linux-6.1"),
        mended=ScenarioCase(scenario=static_call_keys.probe_on_static_call, profile="linux-6.1"),
        kind=ViolationKind.INVARIANT,
    ),
)
"""Faults of static calls."""

TWO_USERS = (
    Exhibit(
        name="foreign-unasked",
        year=2026,
        title="another user's breakpoint where a probe is",
        told=(
            "Another user of breakpoints sets one without asking whether a probe is there, and"
            " saves the probe's breakpoint as the original byte.",
            "Kprobes take its hits, and write a jump or the original byte over it.",
        ),
        source="kgdb_arch_set_breakpoint() does not ask for probes (v6.1)",
        faulty=ScenarioCase(scenario=foreign.foreign_unasked, profile="linux-6.1"),
        mended=ScenarioCase(scenario=foreign.foreign_asks, profile="linux-6.1"),
        kind=ViolationKind.LOST_HIT,
        preemptions=0,
    ),
)
"""What goes wrong where two users patch one place, and neither looks for the other."""
