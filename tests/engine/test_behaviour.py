"""Agreement of the whole core with a real Linux 6.1, at every step of every recorded scenario.

The steps are run by the code of ``optprobe script``.
"""

from __future__ import annotations

import pytest

from tests.engine.behaviour import Scenario, compare, scenarios, stubs

_LACKS_SYMBOL = "the image of the stubs has no such data or function"
_OTHER_DATA = (
    "the module's data lay elsewhere when this was recorded than when the image was: a displacement"
    " in the text differs"
)
_LACKS_DATA = "the function reads data that the image of the stubs does not carry, so the call dies"
# What can't agree, and why. The keys are the scenario, the step's number, its operation, and the
# key that differs.
_APART = {
    ("bad_args", 8, "reg 0 st_data+0", "rc"): _LACKS_SYMBOL,
    ("bad_args", 8, "reg 0 st_data+0", "text"): _LACKS_SYMBOL,
    ("bad_args", 9, "unreg 0", "text"): _LACKS_SYMBOL,
    ("bad_args", 11, "reg 0 st_data+0 sym", "rc"): _LACKS_SYMBOL,
    ("bad_args", 11, "reg 0 st_data+0 sym", "text"): _LACKS_SYMBOL,
    ("bad_args", 12, "unreg 0", "text"): _LACKS_SYMBOL,
    ("bad_args", 30, "reg 0 get_kprobe+0 sym", "rc"): _LACKS_SYMBOL,
    ("bad_args", 30, "reg 0 get_kprobe+0 sym", "text"): _LACKS_SYMBOL,
    ("bad_args", 31, "reg 0 fx_noinstr+0", "text"): _OTHER_DATA,
    ("bad_args", 32, "unreg 0", "text"): _OTHER_DATA,
    ("ftrace_post", 3, "call fx_loop x2", "ret"): _LACKS_DATA,
    ("ftrace_post", 4, "cnt 0", "hits"): _LACKS_DATA,
    ("ftrace_post", 4, "cnt 0", "posts"): _LACKS_DATA,
    ("ftrace_post", 5, "cnt 1", "hits"): _LACKS_DATA,
    ("jumplabel_site", 0, "reg 0 fx_jl+22", "text"): _OTHER_DATA,
    ("jumplabel_site", 1, "reg 1 fx_jl+23", "text"): _OTHER_DATA,
    ("jumplabel_site", 2, "reg 2 fx_jl+15", "text"): _OTHER_DATA,
    ("jumplabel_site", 4, "st fx_jl+15", "text"): _OTHER_DATA,
    ("jumplabel_site", 5, "unreg 2", "text"): _OTHER_DATA,
    ("jumplabel_site", 7, "reg 0 fx_jl+17", "text"): _OTHER_DATA,
    ("jumplabel_site", 8, "reg 1 fx_jl+18", "text"): _OTHER_DATA,
    ("jumplabel_site", 9, "reg 2 fx_jl+10", "text"): _OTHER_DATA,
    ("jumplabel_site", 12, "unreg 0", "text"): _OTHER_DATA,
    ("jumplabel_site", 13, "unreg 1", "text"): _OTHER_DATA,
}


@pytest.fixture(scope="module")
def image():
    return stubs()


@pytest.mark.parametrize("scenario", scenarios(), ids=lambda scenario: scenario.name)
def test_every_step_is_answered_as_a_real_kernel_did(scenario: Scenario, image, pool):
    agreement = compare(scenario, image, pool)
    apart = {known[1:] for known in _APART if known[0] == scenario.name}
    assert [found for found in agreement.differences if found[:3] not in apart] == []
    assert {found[:3] for found in agreement.differences} == apart, "what is said to differ agrees"
    assert agreement.compared == len(scenario.steps)


def test_an_operation_takes_as_many_core_syncs_as_the_fewest_interrupts_seen_for_it(image, pool):
    """An interrupt for each sync was counted, and some noise.

    So no step may have fewer interrupts than syncs here, and of each kind one has no more.
    """
    fewest: dict[tuple[str, int], int] = {}
    for scenario in scenarios():
        for verb, syncs, seen in compare(scenario, image, pool).syncs:
            fewest[verb, syncs] = min(seen, fewest.get((verb, syncs), seen))
    assert len(fewest) >= 15
    assert fewest == {(verb, syncs): syncs for verb, syncs in fewest}


@pytest.mark.parametrize(
    ("scenario", "ops", "key", "real"),
    [
        ("sysctl", ["reg 0 st_small+0", "wait"], "ipis", 2),
        ("mid_probe", ["reg 0 st_small+0"], "kflags", 16),
    ],
)
def test_a_wrong_answer_is_seen(scenario, ops, key, real, image, pool):
    found = next(one for one in scenarios() if one.name == scenario)
    cut = Scenario(scenario, [dict(step) for step in found.steps if step["op"] in ops][: len(ops)])
    assert not compare(cut, image, pool).differences
    cut.steps[-1][key] = real
    assert len(compare(cut, image, pool).differences) == 1
