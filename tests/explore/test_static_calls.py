"""Static calls: every form that a site has in Linux becomes every other one while CPUs run it."""

from __future__ import annotations

from itertools import permutations

import pytest

import optprobe
from engine.errors import InputError

MODELS = ("coherent", "torn")
CALLEES = """
.globl __static_call_return
__static_call_return: ret
.globl __static_call_return0
__static_call_return0: xor eax, eax
 ret
g: lea eax, [rdi + 100]
 ret
h: lea eax, [rdi + 1000]
 ret
.skip 70000, 0xcc
"""
CALL = """
f: push rbx
 mov eax, edi
 {}
 lea eax, [rax + 2*rax]
 pop rbx
 ret
"""
TAIL = """
f: lea eax, [rdi + 7]
 {}
"""
JCC = """
f: lea eax, [rdi + 7]
 cmp edi, {limit}
 {}
 ret
"""
RETURN_0 = ".byte 0x2e, 0x2e, 0x2e, 0x31, 0xc0"
NOP = ".byte 0x0f, 0x1f, 0x44, 0, 0"
CALLS = {"call:g": "call g", "call:h": "call h", "nop": NOP, "return0": RETURN_0}
TAILS = {"jmp:g": "jmp g", "jmp:h": "jmp h", "ret": ".byte 0xc3, 0xcc, 0xcc, 0xcc, 0xcc"}
JCCS = {"jcc:g": "jne g", "jcc:h": "jne h", "jcc:__static_call_return": "jne __static_call_return"}


def explored(site, there, to, fetch="coherent", **options):
    text = CALLEES + site.format(there, limit=options.pop("limit", 5))
    return optprobe.patch(
        optprobe.load_asm(text, "f.s"),
        call="f",
        arguments=[5],
        sites=["f+0x3"] if site is not JCC else ["f+0x6"],
        to=[to],
        fetch=fetch,
        **{"calls": 1, "preemptions": 1, **options},
    )


@pytest.mark.parametrize(("old", "new"), list(permutations(CALLS, 2)))
def test_a_call_becomes_each_other_form_and_comes_back(old, new):
    for fetch in MODELS:
        result = explored(CALL, CALLS[old], new, fetch, back=True)
        assert result.verdict == "safe", result.violations
        assert result.coverage.trapped


@pytest.mark.parametrize(("old", "new"), list(permutations(TAILS, 2)))
def test_a_tail_call_becomes_each_other_form_and_comes_back(old, new):
    for fetch in MODELS:
        assert explored(TAIL, TAILS[old], new, fetch, back=True).verdict == "safe"


@pytest.mark.parametrize("limit", [5, 6])
@pytest.mark.parametrize(("old", "new"), list(permutations(JCCS, 2)))
def test_a_conditional_tail_call_keeps_its_condition(old, new, limit):
    for fetch in MODELS:
        assert explored(JCC, JCCS[old], new, fetch, back=True, limit=limit).verdict == "safe"


def test_each_instruction_that_the_kernel_has_had_for_return_0_is_handled():
    assert explored(CALL, "call g", "66 66 48 31 c0", "torn").verdict == "safe"


def test_return_0_behind_a_breakpoint_needs_the_function_that_is_called_there():
    image = optprobe.load_asm("f: mov eax, edi\n .byte 0x0f, 0x1f, 0x44, 0, 0\n ret\n", "f.s")
    asked = {"call": "f", "arguments": [5], "sites": ["f+0x2"], "to": ["return0"]}
    with pytest.raises(InputError, match="__static_call_return0") as refused:
        optprobe.patch(image, **asked)
    assert "\n" not in str(refused.value)
    assert optprobe.patch(image, protocol="text_poke_smp", **asked).verdict == "safe"


def test_a_condition_is_taken_over_only_where_there_is_one():
    with pytest.raises(InputError, match="no conditional jump stands at") as refused:
        explored(CALL, "call g", "jcc:h")
    assert "\n" not in str(refused.value)
