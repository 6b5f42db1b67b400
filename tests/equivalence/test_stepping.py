"""What a step at another address has to put right, instruction by instruction: every branch both
ways, calls, flags, stacks, REP.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable
from dataclasses import replace

import pytest

from arch_x86.emu.uc import RCX, RSP
from arch_x86.isa.constants import INT3
from engine.core.profiles import LINUX_6_1, LINUX_2010, NEXT, Profile
from engine.kprobe import Method
from tests.equivalence.hits import HitBench, is_rep
from tests.equivalence.states import State
from tests.equivalence.world import USER

_IF, _DF, _ZF = 1 << 9, 1 << 10, 1 << 6
_CONDITIONS = (1, 1 << 2, 1 << 6, 1 << 7, 1 << 11)  # CF, PF, ZF, SF, OF


@pytest.fixture(params=[LINUX_2010, NEXT], ids=["trap-flag", "emulated"])
def hits(pool, request):
    """``hits("hex", ...)``: cells to probe."""
    made: list[HitBench] = []

    def make(*codes: str, fixed_up: bool = False, profile: Profile | None = None) -> HitBench:
        raws = [bytes.fromhex(code) for code in codes]
        made.append(HitBench(raws, pool, USER, fixed_up=fixed_up, profile=profile or request.param))
        return made[-1]

    yield make
    for one in made:
        one.bench.close()


def check(
    bench: HitBench,
    vary: Callable[[int, State], Iterable[State]],
    methods: Iterable[Method] = Method,
    *,
    ends: bool = True,
) -> list[set[int]]:
    """The law for each cell, from each variant of a random state, by all methods; returns the
    addresses at which each cell ended.
    """
    trials = []
    for number in range(len(bench.insns)):
        states = [state for turn in range(2) for state in vary(number, bench.state(number, turn))]
        made = [
            trial
            for turn, state in enumerate(states)
            if (trial := bench.trial(number, turn, state)) is not None
        ]
        assert len(made) == len(states), bench.insns[number].text
        assert not ends or not any(trial.want.fault for trial in made), bench.insns[number].text
        trials.append(made)
    stepped: set[int] = set()
    for method in methods:
        numbers = bench.register(method, range(len(bench.insns)))
        stepped |= set(numbers) if method in (Method.INT3, Method.EMULATED) else set()
        found = [
            bench.difference(number, method, trial)
            for number in numbers
            for trial in trials[number]
        ]
        bench.unregister()
        assert [text for text in found if text] == []
    assert stepped == set(range(len(bench.insns)))
    return [{trial.want.rip for trial in made} for made in trials]


def as_it_is(_number: int, state: State) -> list[State]:
    return [state]


def test_every_conditional_jump_goes_both_ways(hits):
    def all_conditions(_number: int, state: State) -> list[State]:
        keep = state.flags & ~sum(_CONDITIONS)
        return [
            replace(
                state, flags=keep | sum(bit for i, bit in enumerate(_CONDITIONS) if chosen >> i & 1)
            )
            for chosen in range(32)
        ]

    bench = hits(
        *(f"{opcode:02x}10" for opcode in range(0x70, 0x80)),
        *(f"0f{opcode:02x}00000100" for opcode in range(0x80, 0x90)),
    )
    assert [len(found) for found in check(bench, all_conditions)] == [2] * 32


def test_every_counting_jump_goes_both_ways(hits):
    def counts(_number: int, state: State) -> list[State]:
        values = (0, 1, 2, 1 << 32, (1 << 32) + 1, (1 << 64) - 1)
        counted = [replace(state, gpr=(state.gpr[0], value, *state.gpr[2:])) for value in values]
        return [replace(one, flags=one.flags & ~_ZF | zero) for one in counted for zero in (0, _ZF)]

    opcodes = ("e0", "e1", "e2", "e3")
    bench = hits(
        *(
            f"{prefix}{opcode}{where}"
            for prefix in ("", "67", "48")
            for opcode in opcodes
            for where in ("10", "f0")
        )
    )
    assert [len(found) for found in check(bench, counts)] == [2] * 24


def test_jumps_and_calls_arrive_and_calls_leave_the_right_return_address(hits):
    targets = [
        f"{rex}ff{digit:02x}"
        for rex in ("", "41", "48")
        for digit in (*range(0xD0, 0xD8), *range(0xE0, 0xE8))
        if digit & 7 != 4 or rex == "41"
    ]
    bench = hits(
        "eb10",
        "ebf0",
        "e900000100",
        "e800000100",
        "48e800000100",
        "f2e800000100",
        "3effd0",
        "3effe0",
        *targets,
    )
    assert all(len(found) <= 2 for found in check(bench, as_it_is))


def test_returns_take_the_address_from_the_stack(hits):
    check(hits("c3", "f3c3", "f2c3", "48c3", "c20000", "c20800", "c21000", "c20010"), as_it_is)


def test_flags_on_the_stack_are_those_of_before_the_step(hits):
    def interrupts(_number: int, state: State) -> list[State]:
        return [replace(state, flags=state.flags & ~_IF), replace(state, flags=state.flags | _IF)]

    check(hits("669c", "669d", profile=LINUX_2010), interrupts)
    check(
        hits("9c", "489c", "9d", "489d", "fa", "fb", "9e", "9f", "f5", "f8", "f9", "fc", "fd"),
        interrupts,
    )


def test_stack_instructions(hits):
    def stacked(_number: int, state: State) -> list[State]:
        """Whatever is popped into RSP is a stack pointer."""
        rsp = state.gpr[RSP]
        return [
            replace(
                state,
                patches=(
                    *state.patches,
                    *(
                        (rsp + 8 * i, (rsp + 64 + 8 * i).to_bytes(8, "little"))
                        for i in range(-1, 4)
                    ),
                ),
            )
        ]

    codes = (
        "54",
        "4154",
        "5c",
        "415c",
        "ff742408",
        "ff3424",
        "8f442408",
        "8f0424",
        "8fc4",
        "fff4",
        "6654",
        "6aff",
        "6668ffff",
        "68ffffffff",
        "0fa0",
        "0fa8",
    )
    check(
        hits(
            *codes,
            "c9",
            "66c9",
            "c8000000",
            "c8100000",
            "c8200001",
            "c8080003",
            "c800001f",
            "4883ec18",
            "4883c418",
            "488d642408",
            "4887e4",
        ),
        stacked,
    )


def test_a_rep_instruction_is_hit_before_each_iteration(hits):
    def counts(_number: int, state: State) -> list[State]:
        gpr = [(*state.gpr[:RCX], count, *state.gpr[RCX + 1 :]) for count in (0, 1, 2, 5)]
        return [
            replace(state, gpr=one, flags=state.flags & ~_DF | direction)
            for one in gpr
            for direction in (0, _DF)
        ]

    strings = ("a4", "a5", "a6", "a7", "aa", "ab", "ac", "ad", "ae", "af")
    bench = hits(
        *(
            f"{rep}{size}{op}"
            for rep in ("", "f2", "f3")
            for size in ("", "66", "48")
            for op in strings
        )
    )
    assert sum(is_rep(insn) for insn in bench.insns) == 60
    check(bench, counts)


def test_instructions_that_the_emulator_or_the_processor_steps_oddly(hits):
    check(
        hits(
            "f390",
            "90",
            "f30f1efa",
            "0f1f00",
            "0faee8",
            "f00fc107",
            "d7",
            "0fa2",
            "9b",
            "dbe3",
            "0f77",
        ),
        as_it_is,
    )


@pytest.mark.parametrize(
    ("code", "fault"),
    [
        ("f7f1", "divide-error"),
        ("48f7f1", "divide-error"),
        ("488b01", "unmapped-access"),
        ("0f0b", "invalid-opcode"),
        ("8f01", "unmapped-access"),
    ],
)
def test_a_fault_is_that_of_the_original_or_goes_on_at_its_fixup(hits, code: str, fault: str):
    def bad(_number: int, state: State) -> list[State]:
        return [replace(state, gpr=(*state.gpr[:RCX], 0, *state.gpr[RCX + 1 :]))]

    bench = hits(code)
    check(bench, bad, ends=False)
    assert bench.trial(0, 0, bad(0, bench.state(0, 0))[0]).want.fault == fault
    assert check(hits(code, fixed_up=True), bad, [Method.INT3]) == [{USER.pad(15) + 1}]


def test_a_trap_flag_that_popf_loads_is_lost_in_a_step(hits):
    """As in the kernel of 2.6.38: after the step TF is cleared, whoever set it. Without a probe the
    next instruction traps.
    """
    bench = hits("9d", profile=LINUX_2010)
    state = bench.state(0, 0)
    state = replace(state, patches=((state.gpr[RSP], (0x302).to_bytes(8, "little")),))
    trial = bench.trial(0, 0, state)
    assert trial.want.fault == "debug"
    bench.register(Method.INT3, [0])
    assert "fault: '', not 'debug'" in bench.difference(0, Method.INT3, trial)


@pytest.mark.parametrize("code", ["e010", "e110", "e210", "c20800", "c21000", "669c", "669d"])
def test_what_6_1_emulates_wrongly_is_seen_to_differ(hits, code: str):
    """Its LOOP counts one too high, its RET leaves the arguments on the stack, its PUSHF and POPF
    know 64 bits only.
    """
    bench = hits(code, profile=LINUX_6_1)
    state = bench.state(0, 0)
    trials = []
    for count in (1, 2, 3):
        for zero in (0, _ZF):
            varied = replace(
                state, gpr=(state.gpr[0], count, *state.gpr[2:]), flags=state.flags & ~_ZF | zero
            )
            trials.append(bench.trial(0, 0, varied))
    assert bench.register(Method.EMULATED, [0]) == [0]
    assert any(
        trial is not None and bench.difference(0, Method.EMULATED, trial) for trial in trials
    )


def test_where_no_probe_goes(hits):
    """Not copied by 6.1, or not stepped: nothing to compare."""
    bench = hits("cc", "8ed0", "cf", "ff10", "ff20", "ff18", "ff28", "67ffd0")
    assert bench.insns[0].raw == INT3
    assert not any(bench.can_probe(number) for number in range(8))
