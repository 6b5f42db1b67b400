"""Code for scenarios: small, with the shapes that matter."""

from __future__ import annotations

__all__ = (
    "CALLER",
    "DIRECTION",
    "LOOP",
    "NOPS",
    "RECURSIVE",
    "SHORT",
    "STEPPED",
    "THREE",
    "TOY",
    "TWO",
)

TOY = """
.globl work
work:
 mov eax, edi
 inc eax
 lea ecx, [rax + rax*2]
 add eax, ecx
 xor eax, 0x55
 ret
.globl mod
mod:
 lea eax, [rdi + rdi*4]
 lea ecx, [rax + 1]
 ret
"""
"""``work``: +2 can't be boosted; a jump at +4 replaces two instructions, of 3 and 2 bytes. ``mod``:
is not called.
"""

LOOP = """
.globl work
work:
 mov eax, edi
 mov ecx, 2
 nop
.Lagain:
 lea eax, [rax + rax*2]
 add eax, ecx
 sub ecx, 1
 jnz .Lagain
 ret
"""
"""A jump at +7 would replace the three instructions to +13, the second of which the loop jumps to.
"""

TWO = """
.globl work
work:
 lea eax, [rdi + rdi*4]
 lea ecx, [rax + 1]
 xor eax, ecx
 lea edx, [rax + rax]
 add eax, edx
 ret
"""
"""Jumps at +0 (to +6) and at +8 (to +13)."""

NOPS = """
.globl work
work:
 mov eax, edi
 inc eax
 .byte 0x0f,0x1f,0x44,0,0
 lea ecx, [rax + rax*2]
 .byte 0x66,0x90
 add eax, ecx
 ret
"""
"""No-ops at +4, of five bytes, and at +12, of two. The instruction at +2 is stepped; a jump at +9
replaces two instructions, the second of which is the no-op at +12.
"""

THREE = f"""{TWO}
.globl mod
mod:
 lea eax, [rdi + rdi*4]
 lea ecx, [rax + 1]
 ret
"""
"""As TWO, and ``mod``, which is not called."""

CALLER = """
.globl work
work:
 push rbx
 mov ebx, edi
 call inner
 add eax, ebx
 pop rbx
 ret
.globl inner
inner:
 lea eax, [rdi + rdi*4]
 lea ecx, [rax + 1]
 xor eax, ecx
 ret
"""
"""``work`` calls ``inner``, both of which can have return probes."""

RECURSIVE = """
.globl work
work:
 push rbx
 mov ebx, edi
 lea eax, [rdi + rdi*4]
 test edi, edi
 jz .Lout
 lea edi, [rbx - 1]
 call work
 sub eax, ebx
.Lout:
 pop rbx
 ret
"""
"""Calls itself as often as its argument says: so many calls of one function are open at once. It
returns with CF set.
"""

SHORT = """
.globl work
work:
 push rbx
 lea ebx, [rdi + rdi*4]
 push rcx
 pop rcx
 lea eax, [rbx + rbx*2]
 pop rbx
 ret
"""
"""A jump at +0 replaces instructions of 1, 3 and 1 bytes: others begin at the first byte behind its
own, and at the last one.
"""

DIRECTION = """
.globl work
work:
 push rbx
 std
 lea eax, [rdi + rdi*4]
 lea ecx, [rax + 1]
 cld
 xor eax, ecx
 pop rbx
 ret
"""
"""At +2, where a jump replaces two instructions, DF is set, and the stack so that a whole pt_regs
leaves it unaligned.
"""

STEPPED = """
.globl work
work:
 push rdi
 call inner
 pop rdi
 add eax, edi
 ret
.globl inner
inner:
 inc edi
 lea eax, [rdi + rdi*4]
 ret
"""
"""``work`` calls ``inner``, whose first instruction is stepped."""
