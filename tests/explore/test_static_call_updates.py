"""Updates of static calls: each call goes to the function that the last update has named."""

from __future__ import annotations

import pytest

from arch_x86.explore.scenario import Control
from arch_x86.explore.scenarios import static_call_keys
from arch_x86.explore.scenarios.static_call_keys import CALLS
from arch_x86.explore.scenarios.static_keys import BRANCH
from arch_x86.explore.x86_setup import X86Setup
from engine.control.sync import ControlPlane
from engine.core.static_call import StaticCall
from engine.errors import InputError
from engine.patching.control_state import NoTime
from engine.patching.request import Request
from engine.patching.scenario_decorator import scenario
from engine.patching.search_options import Search
from engine.patching.verdict import check

BOTH = ("__SCT__func:other", "work+0x2:other")
JCC = """
.globl __static_call_return
__static_call_return: ret
func: lea eax, [rdi + 100]
 ret
.skip 70000, 0xcc
work: mov eax, edi
 cmp edi, 5
 je {}
 ret
"""
"""``work`` ends in a static call where its argument is 5."""


def explored(pool, one, *, bound=None, **changes):
    port = X86Setup(pool)
    experiment = one.experiment(one.asked(changes), port)
    return check(experiment, Search(preemptions=one.preemptions if bound is None else bound), port)


def updates(*functions, calls=BOTH, image=CALLS, **asked):
    """Return a scenario whose control task updates its static calls to each of ``functions``."""

    def update_in_turn(setup):
        @setup.control
        def update(k: Control) -> None:
            for function in functions:
                k.static_call_update(function)

    asked = {"calls": 1, "preemptions": 1, "profiles": ("linux-6.1", "next"), **asked}
    made = scenario(image=image, call="work", arguments=("5",), static_calls=calls, **asked)
    return made(update_in_turn)


SAFE = [one for one in static_call_keys.SCENARIOS if one is not static_call_keys.fa68bd09fc62]


@pytest.mark.parametrize("one", SAFE, ids=lambda one: one.name)
def test_calls_go_to_the_function_of_the_last_update(pool, one):
    assert explored(pool, one, fetch="torn").verdict == "safe"


@pytest.mark.slow
@pytest.mark.parametrize("one", SAFE, ids=lambda one: one.name)
@pytest.mark.parametrize("fetch", ["coherent", "stale", "unit:8"])
@pytest.mark.parametrize("profile", ["linux-6.1", "next"])
def test_they_do_in_every_fetch_model_and_profile(pool, one, fetch, profile):
    assert explored(pool, one, fetch=fetch, profile=profile).verdict == "safe"


@pytest.mark.parametrize(("there", "to"), [("func", "NULL"), ("__static_call_return", "func")])
def test_a_conditional_jump_is_a_static_call_too(pool, there, to):
    functions = [to, "NULL" if to == "func" else "func"]
    one = updates(*functions, calls=(f"work+0x5:{to}",), image=JCC.format(there))
    assert explored(pool, one).verdict == "safe"


def test_a_call_that_an_update_has_left_out_is_found(pool, monkeypatch):
    monkeypatch.setattr(StaticCall, "update", lambda key, func: setattr(key, "func", func))
    (report,) = explored(pool, updates("other"), bound=0).violations
    assert report.violation.kind in ("wrong-result", "text-not-restored")


def test_an_update_that_returns_before_it_has_patched_is_found(pool, monkeypatch):
    def late(key, func):
        with key.mutex:
            key.func = func

    monkeypatch.setattr(StaticCall, "update", late)
    (report,) = explored(pool, updates("other"), bound=0).violations
    assert report.schedule.choices <= 8


def test_an_update_patches_each_call_once_and_one_to_the_same_function_none():
    patched = []
    sites = [lambda func, at=at: patched.append((at, func)) for at in range(3)]
    key = StaticCall(ControlPlane(NoTime()), "g", sites)
    for func in ("h", "h", "g"):
        key.update(func)
    assert patched == [(0, "h"), (1, "h"), (2, "h"), (0, "g"), (1, "g"), (2, "g")]


class TestProbes:
    @pytest.mark.parametrize(
        ("keywords", "why"),
        [
            ({"image": CALLS, "static_calls": ("work+0x2:other",)}, "static-call"),
            ({"image": BRANCH, "branches": ("work+0x2:taken",)}, "jump-label"),
        ],
    )
    def test_a_probe_is_refused_on_code_that_a_key_switches(self, pool, keywords, why):
        @scenario(call="work", arguments=("5",), calls=1, **keywords)
        def probed(setup):
            @setup.control
            def main(k: Control) -> None:
                assert not k.register(k.kprobe("work", 2))

        result = explored(pool, probed, bound=0)
        assert (result.verdict, [why in line for line in result.refused]) == ("safe", [True])

    def test_a_jump_does_not_replace_code_that_a_key_switches(self, pool):
        text = CALLS.replace(" call func", " .byte 0x0f, 0x1f, 0x44, 0, 0")

        @scenario(image=text, call="work", arguments=("5",), calls=1,
                  static_calls=("work+0x2:other",), profiles=("linux-6.1",))  # fmt: skip
        def in_front(setup):
            @setup.control
            def main(k: Control) -> None:
                p = k.kprobe("work")
                k.register(p)
                k.settle()
                k.static_call_update("other")
                k.unregister(p)
                k.settle()

        result = explored(pool, in_front, bound=0)
        assert (result.verdict, result.coverage.jump) == ("safe", 0)
        assert result.coverage.int3


@pytest.mark.parametrize(
    ("calls", "told"),
    [
        (("work+0x2",), "give SYM[+]OFF:FUNCTION"),
        (("work:other",), "where a call or a jump of a function is"),
        (("work+0x2:nobody",), "no such function"),
        (("work+0x2:other", "__SCT__func:NULL"), "give calls of one function"),
        (("work+0x2:func",), "stands at work[+]0x2 already"),
        (("work+0x2:__static_call_return0",), "has no function __static_call_return0"),
    ],
)
def test_a_static_call_that_is_none_is_refused_in_one_line(pool, calls, told):
    text = CALLS.replace("__static_call_return0", "zero") if "return0" in told else CALLS
    request = Request(image=text, call="work", static_calls=calls, profile="linux-6.1")
    with pytest.raises(InputError, match=told) as refused:
        static_call_keys.static_call.experiment(request, X86Setup(pool))
    assert "\n" not in str(refused.value)


def test_an_update_to_another_function_is_refused_in_one_line(pool):
    for one, told in (
        (updates("nobody"), "go to func or to other"),
        (updates("other", calls=()), "has no static call"),
    ):
        (report,) = explored(pool, one, bound=0).violations
        assert told in report.violation.explain
        assert "\n" not in report.violation.explain


def test_a_scenario_has_static_branches_or_static_calls(pool):
    with pytest.raises(InputError, match="one of the two"):
        explored(pool, updates("other", branches=("work+0x2:other",)))
