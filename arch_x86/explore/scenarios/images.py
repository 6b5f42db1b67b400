"""Code for scenarios: small, with the shapes that matter."""

from __future__ import annotations

__all__ = ("CALLER", "LOOP", "TOY")

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
"""``work``: +2 can't be boosted; a jump at +4 replaces two instructions, of 3 and 2 bytes. ``mod``: is not called."""

LOOP = """
.globl work
work:
 mov eax, edi
 nop
 mov ecx, 2
again:
 lea eax, [rax + rax*2]
 add eax, ecx
 sub ecx, 1
 jnz again
 ret
"""
"""A jump at +3 would replace five bytes; one at +2, six, the last of which the loop does not jump to; one at +8 is jumped to, its first."""

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
