"""Assembly text: labels become symbols, and nothing that keystone might not survive reaches it."""

from __future__ import annotations

import pytest

from arch_x86.images import load_asm
from engine.errors import InputError

TEXT = """
    .intel_syntax noprefix
    .globl sum
# adds
sum:                    // comment
    endbr64
    xor eax, eax ; add rax, rdi /* two
lines */
.Lagain: dec rsi
    jnz .Lagain
    call leaf
    jmp qword ptr [rip + table]
    .p2align 4
leaf: mov rax, rdi
    ret
table: .quad sum, leaf
text: .asciz "a;#b"
"""


@pytest.mark.parametrize("base", [None, 0xFFFFFFFF81000000])
def test_labels_become_symbols_that_reach_to_the_next(base):
    at = 0x10000000 if base is None else base
    image = load_asm(TEXT, "t.s", base)
    code = image.segments[0]
    assert (code.addr, code.executable, code.writable) == (at, True, False)
    assert [(s.name, s.addr - at, s.size, s.function) for s in image.symbols] == [
        ("sum", 0, 32, True),
        ("leaf", 32, 4, True),
        ("table", 36, 16, False),
        ("text", 52, 5, False),
    ]
    assert image.read(at, 4) == b"\xf3\x0f\x1e\xfa"  # endbr64, which keystone does not know
    assert image.read(at + 36, 16) == at.to_bytes(8, "little") + (at + 32).to_bytes(8, "little")
    assert image.read(at + 52, 5) == b"a;#b\0"
    assert image.red_zone is False


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("nop\nbogus rax\nret", "t.s:2: bogus rax: "),
        ("nop\njmp nowhere", "t.s:2: jmp nowhere: "),
        ("f: nop\nf: nop", "t.s:2: label f is defined twice"),
        ("mov %rax, %rbx", "AT&T"),
        ("nop\n#include <x.h>", "t.s:2: #include <x.h>: run the C preprocessor first"),
        (".data\nnop", "not supported here"),
        ('.incbin "x"', "not supported here"),
        ('.include "x"', "not supported here"),
        (".rept 1000000000\nnop\n.endr", "not supported here"),
        (".zero 99999999999", "write a number up to"),
        (".zero 010", "write a number up to"),
        (".p2align 30", "write a number up to 12"),
        ("/ nop", "not an instruction"),
        ("nop /* open", "does not end"),
        ("1: jmp 1b", "not an instruction"),
        ("nop \\", "not an instruction"),
        ("nop\0", "not an instruction"),
        ("mov rax, \u0661", "not an instruction"),
        ("caf\u00e9: ret", "not an instruction"),
        ("call [", "brackets"),
        ("mov ah, byte ptr [r8]", "no encoding"),
        ("movzx rax, ah", "no encoding"),
        ("", "no instruction"),
        ("# only a comment", "no instruction"),
        ("f:", "no instruction"),
    ],
)
def test_each_error_is_one_line_that_names_the_line(text, words):
    with pytest.raises(InputError) as caught:
        load_asm(text, "t.s", None)
    assert words in str(caught.value)
    assert str(caught.value).isprintable()


@pytest.mark.parametrize(
    "text",
    [
        "mov [rax], ah",
        "movzx eax, ch",
        "lock inc dword ptr [rdi]",
        "mov rax, fs:[0x28]",
        "x = 5\nmov eax, x",
    ],
)
def test_ordinary_instructions_pass(text):
    assert load_asm(text, "t.s", None).segments[0].size > 0


def test_a_bad_base_is_refused():
    with pytest.raises(InputError, match="text base"):
        load_asm("ret", "t.s", 1)
