"""``verify`` as a finder, in the tree that it is run in: ``python -m tests.faults.verify``.

A few small functions that hold each form of instruction that a probe treats in a way of its own, by
all methods, in each profile. Prints the first failure as one line and ends with status 1; with 0
when there is none.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import closing
from dataclasses import replace
from typing import Final

from arch_x86.emu.machine import new_pool
from arch_x86.images.asmtext import load_asm
from arch_x86.lab.run import ExecOptions
from arch_x86.lab.verify import Sweep, Verifier
from engine.core.profiles import LINUX_6_1, LINUX_2010, NEXT, Profile
from engine.image import ExceptionEntry, Image
from engine.syntax.arguments import parse_argument

__all__ = ("RUNS", "first_found", "image_of", "main")

_STRAIGHT: Final = """
.globl f
f:
 push rbx
 mov ebx, edi
 stc
 lea r10, [rdi + rdi*2]
 lea r11, [rdi + 1]
 adc r10, r11
 jmp .Lover
 nop; nop; nop; nop; nop; nop; nop; nop
.Lover:
 mov edx, edi
 mov r9d, dword ptr [rip - 17]
 add r9d, dword ptr [rip - 20]
 lea rax, [r9 + r10]
 cmp edi, 5
 jle .Lless
 inc rax
.Lless:
 pushfq
 pop rcx
 xor rcx, 1
 push rcx
 popfq
 adc rax, rcx
 call g
 add rax, rbx
 pop rbx
 ret
.globl g
g:
 add rax, rsp
 sub rax, rsp
 ret
"""
_FLAGS: Final = """
.globl f
f:
 mov rax, rdi
 cli
 pushfq
 pop rdx
 sti
 nop
 std
 lea rcx, [rax + rax]
 cld
 add rax, rcx
 ret
"""
_REGISTER: Final = """
.globl f
f:
 lea r12, [rip + 11]
 mov ecx, 0
 mov eax, edi
 nop
 lea edx, [rdi + 1]
.Lagain:
 add eax, 5
 add ecx, edx
 cmp ecx, 8
 je .Lout
 jmp r12
.Lout:
 ret
"""
_LOOPS: Final = """
.globl f
f:
 mov ecx, 2
 xor eax, eax
.Lagain:
 add eax, edi
 lea edx, [rax + 1]
 loop .Lagain
 ret
"""
_RED_ZONE: Final = """
.globl f
f:
 mov qword ptr [rsp - 8], rdi
 lea rax, [rdi + rdi*2]
 mov qword ptr [rsp - 128], rax
 lea rcx, [rax + 1]
 add rcx, qword ptr [rsp - 8]
 mov rax, qword ptr [rsp - 128]
 add rax, rcx
 ret
"""
_FAULTS: Final = """
.globl f
f:
 mov ecx, edi
 mov rax, qword ptr [rdi]
.Lback:
 add rax, rcx
 ret
 mov eax, 7
 jmp .Lback
"""
_FIXUPS: Final = {"faults.s": (2, 9)}
"""By name, offsets of an instruction that faults and of where the exception table says that it goes
on: behind the ``ret``.
"""
_ALL: Final = (LINUX_2010, LINUX_6_1, NEXT)
RUNS: Final[tuple[tuple[str, str, tuple[Profile, ...], Sweep], ...]] = (
    ("straight.s", _STRAIGHT, _ALL, Sweep()),
    ("register.s", _REGISTER, _ALL, Sweep()),
    ("loops.s", _LOOPS, (LINUX_2010, NEXT), Sweep()),  # 6.1 runs one round too many
    ("red_zone.s", _RED_ZONE, _ALL, Sweep("sample", 1, 12)),
    ("flags.s", _FLAGS, _ALL, Sweep("boundaries")),
    ("faults.s", _FAULTS, _ALL, Sweep("boundaries")),
)


def image_of(name: str, text: str) -> Image:
    """The image of one of :data:`RUNS`."""
    image = replace(load_asm(text, name), red_zone=name == "red_zone.s")
    if name not in _FIXUPS:
        return image
    insn, fixup = (image.by_name["f"].addr + offset for offset in _FIXUPS[name])
    return replace(image, exception_table=(ExceptionEntry(insn, fixup),))


def _failures() -> Iterator[str]:
    pool = new_pool()
    for name, text, profiles, sweep in RUNS:
        image = image_of(name, text)
        for profile in profiles:
            with closing(
                Verifier(
                    image,
                    "f",
                    [parse_argument("3")],
                    options=ExecOptions(profile=profile),
                    pool=pool,
                )
            ) as verifier:
                for addr in verifier.sites():
                    for failure in verifier.check_site(addr, sweep):
                        where = (
                            ""
                            if failure.interrupt_at is None
                            else f", interrupted at {failure.interrupt_at}"
                        )
                        yield (
                            f"{name} in {profile.name}: +{failure.offset:#x}"
                            f" {failure.method}{where}: {failure.explain}"
                        )


def first_found() -> str | None:
    """The first failure."""
    try:
        return next(_failures(), None)
    except Exception as error:  # whatever a faulty tree raises, it is noticed
        return f"{type(error).__name__}: {error}"


def main() -> int:
    """Returns the exit status."""
    found = first_found()
    if found is not None:
        print(" ".join(found.split()))
    return int(found is not None)


if __name__ == "__main__":
    raise SystemExit(main())
