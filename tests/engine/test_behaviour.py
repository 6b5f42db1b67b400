"""Agreement of the whole core with a real Linux 6.1: every step of every recorded scenario, by `optprobe script`'s own code."""

from __future__ import annotations

import pytest

from tests.engine.behaviour import Scenario, compare, scenarios, stubs

# Steps that can't agree, and why: a word of the operation, the key that differs.
_LACKS_SYMBOL = "the image of the stubs has no such data or function"
_OTHER_DATA = "the module's data lay elsewhere when this was recorded than when the image was: a displacement in the text differs"
_LACKS_DATA = "the function reads data that the image of the stubs does not carry"
_APART = {
    "bad_args": {
        "reg 0 st_data+0": _LACKS_SYMBOL,
        "reg 0 st_data+0 sym": _LACKS_SYMBOL,
        "reg 0 get_kprobe+0 sym": _LACKS_SYMBOL,
        "reg 0 fx_noinstr+0": _OTHER_DATA,
        "unreg 0": f"{_LACKS_SYMBOL}; {_OTHER_DATA}",  # of the three above
    },
    "ftrace_post": {"call fx_loop x2": _LACKS_DATA, "cnt 0": _LACKS_DATA, "cnt 1": _LACKS_DATA},
    "jumplabel_site": dict.fromkeys(
        ("reg 0 fx_jl+22", "reg 1 fx_jl+23", "reg 2 fx_jl+15", "st fx_jl+15", "reg 0 fx_jl+17", "reg 1 fx_jl+18", "reg 2 fx_jl+10"),
        _OTHER_DATA,
    )
    | dict.fromkeys(("unreg 0", "unreg 1", "unreg 2"), _OTHER_DATA),
}


@pytest.fixture(scope="module")
def image():
    return stubs()


@pytest.mark.parametrize("scenario", scenarios(), ids=lambda scenario: scenario.name)
def test_every_step_is_answered_as_a_real_kernel_did(scenario: Scenario, image, pool):
    agreement = compare(scenario, image, pool)
    apart = _APART.get(scenario.name, {})
    assert [found for found in agreement.differences if found[0] not in apart] == []
    assert {op for op, _ in agreement.differences} == set(apart), "a step that is said to differ agrees"
    assert agreement.compared == len(scenario.steps)


@pytest.mark.parametrize(
    ("scenario", "ops", "key", "real"),
    [("sysctl", ["reg 0 st_small+0", "wait"], "ipis", 2), ("mid_probe", ["reg 0 st_small+0"], "kflags", 16)],
)
def test_a_wrong_answer_is_seen(scenario, ops, key, real, image, pool):
    found = next(one for one in scenarios() if one.name == scenario)
    cut = Scenario(scenario, [dict(step) for step in found.steps if step["op"] in ops][: len(ops)])
    assert not compare(cut, image, pool).differences
    cut.steps[-1][key] = real
    assert len(compare(cut, image, pool).differences) == 1
