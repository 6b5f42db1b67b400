"""This module has common library functions as guest code (ISO C17, 7.22.3 and 7.24).

Each is the plainest form that keeps the function's contract. Other sources are POSIX.1-2017 and LSB
core 5.0, chapter 10.9 (``__memcpy_chk`` and the like); for kernel modules
arch/x86/kernel/ftrace_64.S and arch/x86/lib/retpoline.S; for thread-local data the psABI, section
3.4.2.

The allocator never hands out the same memory twice. Its arena is zero at first, so all that it
hands out is zero, too.
"""

from __future__ import annotations

from typing import Final

__all__ = ("ARENA_SIZE", "ENDINGS", "INTERPOSED", "ROUTINES")

ARENA_SIZE: Final = 1 << 20
"""``malloc`` hands out this many bytes in all, headers included, and null pointers after."""

ENDINGS: Final = {
    "abort": "the code gives up",
    "exit": "the code ends its process",
    "_exit": "the code ends its process",
    "__assert_fail": "an assertion of the code failed",
    "__chk_fail": "a buffer is too small for what is written to it",
    "__fortify_fail": "a buffer is too small for what is written to it",
    "__stack_chk_fail": "the stack protector's canary is damaged",
    "__cxa_pure_virtual": "a pure virtual function was called",
}
"""These functions never return; the text says what a call of each means.

A call of one of them is always a trap that says so. A library's own function would make system
calls.
"""

_TO_GUARD: Final = "cmp rcx, rdx; jae fits; hlt; fits:"

_MEMORY: Final = {
    "memcpy": "mov rax, rdi; mov rcx, rdx; rep movsb; ret",
    "mempcpy": "mov rcx, rdx; rep movsb; mov rax, rdi; ret",
    "memmove": (
        """
        mov rax, rdi; mov rcx, rdx; mov r8, rdi; sub r8, rsi; cmp r8, rdx; jb backwards
        rep movsb; ret
        backwards: lea rdi, [rdi + rcx - 1]; lea rsi, [rsi + rcx - 1]; std; rep movsb; cld; ret"""
    ),
    "memset": "mov r8, rdi; mov eax, esi; mov rcx, rdx; rep stosb; mov rax, r8; ret",
    "memcmp": (
        """
        mov rcx, rdx; xor eax, eax; test rcx, rcx; repe cmpsb; je same
        movzx eax, byte ptr [rdi - 1]; movzx ecx, byte ptr [rsi - 1]; sub eax, ecx
        same: ret"""
    ),
    "memchr": (
        """
        mov rcx, rdx; mov eax, esi; test rcx, rcx; je none; repne scasb; jne none
        lea rax, [rdi - 1]; ret
        none: xor eax, eax; ret"""
    ),
    "memrchr": (
        """
        next: test rdx, rdx; je none; dec rdx; cmp byte ptr [rdi + rdx], sil; jne next
        lea rax, [rdi + rdx]; ret
        none: xor eax, eax; ret"""
    ),
}
_STRINGS: Final = {
    "strlen": "xor eax, eax; mov rcx, -1; repne scasb; not rcx; lea rax, [rcx - 1]; ret",
    "strnlen": (
        """
        xor eax, eax
        next: cmp rax, rsi; jae done; cmp byte ptr [rdi + rax], 0; je done; inc rax; jmp next
        done: ret"""
    ),
    "strcmp": (
        """
        next: movzx eax, byte ptr [rdi]; movzx ecx, byte ptr [rsi]; cmp eax, ecx; jne done
        inc rdi; inc rsi; test eax, eax; jne next
        done: sub eax, ecx; ret"""
    ),
    "strncmp": (
        """
        next: test rdx, rdx; je same; movzx eax, byte ptr [rdi]; movzx ecx, byte ptr [rsi]
        cmp eax, ecx; jne differ
        test eax, eax; je same; inc rdi; inc rsi; dec rdx; jmp next
        same: xor eax, eax; ret
        differ: sub eax, ecx; ret"""
    ),
    "strcpy": (
        "mov rax, rdi; next: mov cl, byte ptr [rsi]; mov byte ptr [rdi], cl; inc rsi; inc rdi; "
        "test cl, cl; jne next; ret"
    ),
    "stpcpy": (
        "next: mov cl, byte ptr [rsi]; mov byte ptr [rdi], cl; inc rsi; inc rdi; test cl, cl; "
        "jne next; lea rax, [rdi - 1]; ret"
    ),
    "strncpy": (
        """
        mov rax, rdi
        next: test rdx, rdx; je done; mov cl, byte ptr [rsi]; mov byte ptr [rdi], cl; inc rdi
        dec rdx; cmp cl, 1; sbb rsi, -1; jmp next
        done: ret"""
    ),
    "strcat": (
        """
        mov rax, rdi; dec rdi
        seek: inc rdi; cmp byte ptr [rdi], 0; jne seek
        next: mov cl, byte ptr [rsi]; mov byte ptr [rdi], cl; inc rsi; inc rdi; test cl, cl
        jne next; ret"""
    ),
    "strncat": (
        """
        mov rax, rdi; dec rdi
        seek: inc rdi; cmp byte ptr [rdi], 0; jne seek
        next: test rdx, rdx; je done; mov cl, byte ptr [rsi]; test cl, cl; je done
        mov byte ptr [rdi], cl; inc rsi; inc rdi; dec rdx; jmp next
        done: mov byte ptr [rdi], 0; ret"""
    ),
    "strchr": (
        """
        next: mov al, byte ptr [rdi]; cmp al, sil; je found; inc rdi; test al, al; jne next
        xor eax, eax; ret
        found: mov rax, rdi; ret"""
    ),
    "strchrnul": (
        """
        next: mov al, byte ptr [rdi]; cmp al, sil; je found; inc rdi; test al, al; jne next; dec rdi
        found: mov rax, rdi; ret"""
    ),
    "strrchr": (
        "xor eax, eax; next: mov cl, byte ptr [rdi]; cmp cl, sil; cmove rax, rdi; inc rdi; "
        "test cl, cl; jne next; ret"
    ),
}
# A block has 8 unused bytes, 8 bytes with its size, and then, on a 16-byte boundary, the memory
# that the caller gets. The arena's first word counts the bytes that were handed out. LOCK XADD
# changes it, since several vCPUs may allocate at once.
_HEAP: Final = {
    "malloc": (
        """
        mov rcx, {limit:#x}; cmp rdi, rcx; ja none
        lea rcx, [rdi + 31]; and rcx, -16; mov rdx, {arena:#x}; mov rax, rcx
        lock xadd qword ptr [rdx], rax
        lea r8, [rax + rcx]; cmp r8, {limit:#x}; ja full
        lea rax, [rax + rdx + 32]; mov qword ptr [rax - 8], rdi; ret
        full: lock sub qword ptr [rdx], rcx
        none: xor eax, eax; ret"""
    ),
    "calloc": (
        "mov rax, rdi; mul rsi; jo none; mov rdi, rax; jmp {malloc:#x}; none: xor eax, eax; ret"
    ),
    "realloc": (
        """
        test rdi, rdi; je fresh; push rdi; push rsi; sub rsp, 8; mov rdi, rsi; call {malloc:#x}
        add rsp, 8; pop rcx; pop rsi
        test rax, rax; je done; mov rdx, qword ptr [rsi - 8]; cmp rcx, rdx; cmova rcx, rdx
        mov rdi, rax; rep movsb
        done: ret
        fresh: mov rdi, rsi; jmp {malloc:#x}"""
    ),
    "reallocarray": (
        """
        mov rax, rsi; mul rdx; jo none; mov rsi, rax; jmp {realloc:#x}
        none: xor eax, eax; ret"""
    ),
    "memalign": (
        """
        push rdi; push rsi; sub rsp, 8; add rdi, rsi; jc none; call {malloc:#x}; add rsp, 8
        pop rdx; pop rcx; test rax, rax; je done
        lea rax, [rax + rcx - 1]; neg rcx; and rax, rcx; mov qword ptr [rax - 8], rdx
        done: ret
        none: add rsp, 24; xor eax, eax; ret"""
    ),
    "aligned_alloc": "jmp {memalign:#x}",
    "posix_memalign": (
        """
        push rdi; mov rdi, rsi; mov rsi, rdx; call {memalign:#x}; pop rdi; test rax, rax; je none
        mov qword ptr [rdi], rax; xor eax, eax; ret
        none: mov eax, 12; ret"""
    ),
    "malloc_usable_size": (
        "xor eax, eax; test rdi, rdi; je done; mov rax, qword ptr [rdi - 8]; done: ret"
    ),
    "free": "ret",
    "cfree": "ret",
}
_THREADS: Final = {
    # The first word of the argument is the distance of the module's block from the thread pointer,
    # which relocation DTPMOD64 stores here in place of the module's number.
    "__tls_get_addr": (
        "xor eax, eax; mov rax, qword ptr fs:[rax]; add rax, qword ptr [rdi]; "
        "add rax, qword ptr [rdi + 8]; ret"
    ),
    "_dl_tlsdesc_return": "mov rax, qword ptr [rax + 8]; ret",
    "__errno_location": "xor ecx, ecx; mov rax, {errno:#x}; add rax, qword ptr fs:[rcx]; ret",
}
_START_UP: Final = {
    "__cxa_finalize": "ret",
    "__cxa_atexit": "xor eax, eax; ret",
    "atexit": "xor eax, eax; ret",
    "_dl_x86_get_cpu_features": "mov rax, {zeros:#x}; ret",
    "__get_cpu_features": "mov rax, {zeros:#x}; ret",
}
_REGISTERS: Final = (
    "rax",
    "rcx",
    "rdx",
    "rbx",
    "rsp",
    "rbp",
    "rsi",
    "rdi",
    *(f"r{n}" for n in range(8, 16)),
)
_KERNEL: Final = {"__fentry__": "ret", "__x86_return_thunk": "ret"} | {
    f"__x86_indirect_thunk_{name}": f"jmp {name}" for name in _REGISTERS if name != "rsp"
}
_CHECKED: Final = {
    f"__{name}_chk": f"{_TO_GUARD} {_MEMORY[name]}"
    for name in ("memcpy", "mempcpy", "memmove", "memset")
}

ROUTINES: Final = (
    _MEMORY
    | _STRINGS
    | _HEAP
    | _THREADS
    | _START_UP
    | _KERNEL
    | _CHECKED
    | {"bcmp": _MEMORY["memcmp"]}
)
"""This table has the assembly of each function by its name.

Names in braces stand for the addresses of other routines, and for ``arena``, ``limit``, ``zeros``
and ``errno``.
"""

INTERPOSED: Final = frozenset((*_HEAP, "__tls_get_addr"))
"""These routines win over a library's own.

A library's allocator needs memory from the operating system, and its ``__tls_get_addr`` needs the
dynamic linker's tables.
"""
