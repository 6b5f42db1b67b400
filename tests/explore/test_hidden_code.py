"""A protocol that takes the right to execute away, so that CPUs fault and wait meanwhile."""

from __future__ import annotations

from dataclasses import replace

import pytest

from arch_x86.explore.x86_setup import X86Setup
from arch_x86.images.asmtext import load_asm
from engine.patching.make_experiment import experiment_of_patch
from engine.patching.patch_spec import PatchSpec
from engine.patching.request import Request
from engine.patching.search_options import Search
from engine.patching.verdict import check
from tests.explore.laws import outcomes

CALLER = """
g:
 add ebx, 100
 ret
.skip 70000, 0xcc
f:
 push rbx
 mov ebx, edi
 .byte 0x0f,0x1f,0x44,0,0
 lea eax,[rbx+1]
 pop rbx
 ret
"""


def hidden(pool, *, without=(), back=True, **fields):
    """Turn a no-op into a call while the page of the caller can't be executed."""
    request = Request(
        image=load_asm(CALLER, "caller"), call="f", arguments=("5",), calls=1, **fields
    )
    spec = PatchSpec(
        sites=("f+0x3",), codes=("call:g",), back=back, protocol="stop_by_fault", without=without
    )
    return experiment_of_patch(request, spec, X86Setup(pool))


@pytest.mark.parametrize(
    "fields", [{"fetch": "torn"}, {"preempt": True}, {"cpus": 2, "fetch": "torn"}], ids=str
)
def test_no_cpu_executes_the_page_while_its_bytes_change(pool, fields):
    result = check(hidden(pool, **fields), Search(preemptions=1), X86Setup(pool))
    assert result.verdict == "safe"


def test_a_cpu_that_keeps_its_translation_executes_torn_bytes(pool):
    result = check(hidden(pool, without=("shootdown",)), Search(preemptions=0), X86Setup(pool))
    assert "neither in the old code nor in the new" in result.violations[0].violation.explain
    assert result.violations[0].schedule.choices <= 8


@pytest.mark.parametrize("fields", [{}, {"preempt": True}, {"without": ("shootdown",)}], ids=str)
def test_a_reduced_search_has_the_outcomes_of_the_unreduced_one(pool, fields):
    case = replace(hidden(pool, back=False, **fields), interrupts=False)
    found = outcomes(case, pool, bound=1, reduce=True)
    assert found == outcomes(case, pool, bound=1, reduce=False)
