"""Functions whose calls share data, and a campaign of them: ``make shared``.

Each is checked on two vCPUs, and on one with preemption (in the profile that is sound with it),
with a probe on the first instruction where its calls meet: what unprobed calls may leave is no
violation. Then a hit is lost on purpose, which has to be found in each.
"""

from __future__ import annotations

import sys
from dataclasses import dataclass
from typing import Final

from arch_x86.emu.machine import new_pool
from arch_x86.emu.uc import UcPool
from arch_x86.explore.open_experiment import find_orders
from arch_x86.isa.assemble import assemble
from engine.core.ablation import without
from engine.core.profiles import LINUX_2010, NEXT
from engine.image import Image, Segment, Symbol
from engine.patching.check_result import CheckResult
from engine.patching.experiment import Experiment
from engine.patching.operations import Control
from engine.patching.search_options import Search
from engine.report.terminal import Progress, table
from engine.search.explorable import ViolationKind
from engine.syntax.arguments import parse_argument
from tests.explore.experiments import check

CODE_AT: Final = 0x1000_0000
DATA_AT: Final = 0x1001_0000
_DATA_SIZE: Final = 256


@dataclass(frozen=True, slots=True)
class SharedFunction:
    """Assembly text of ``f``, where G is the address of the shared data; its argument; and the
    first quad words of the data.
    """

    name: str
    text: str
    argument: str = "3"
    data: tuple[int, ...] = ()

    @property
    def image(self) -> Image:
        """The code and, writable, the data."""
        code = assemble(self.text.replace("G", f"{DATA_AT:#x}"), CODE_AT)
        data = b"".join(word.to_bytes(8, "little") for word in self.data)
        segments = (
            Segment(CODE_AT, code, len(code)),
            Segment(DATA_AT, data, _DATA_SIZE, writable=True, executable=False),
        )
        symbols = (
            Symbol("f", CODE_AT, len(code)),
            Symbol("shared", DATA_AT, _DATA_SIZE, function=False),
        )
        return Image(name=self.name, segments=segments, symbols=symbols)


_TICKET: Final = "mov eax, 1; lock xadd dword ptr [G + 8], eax; imul eax, eax, 5; xor eax, 4;"
"""A number in EAX that differs from call to call: 4, 1, 14, ..."""
_NODES: Final = (DATA_AT + 16, 0, DATA_AT + 32, 7, DATA_AT + 48, 8, 0, 9)
"""A list of three nodes: a pointer to the next one, a value."""

FUNCTIONS: Final = tuple(
    SharedFunction(*fields)
    for fields in (
        # Counters
        ("add-8", "add byte ptr [G], dil; movzx eax, byte ptr [G]; ret"),
        ("add-16", "add word ptr [G], di; movzx eax, word ptr [G]; ret"),
        ("add-32", "add dword ptr [G], edi; mov eax, dword ptr [G]; ret"),
        ("add-64", "add qword ptr [G], rdi; mov rax, qword ptr [G]; ret"),
        (
            "add-two-words",
            "add dword ptr [G], edi; adc dword ptr [G + 4], 0; mov eax, dword ptr [G + 4]; ret",
            "3",
            (0xFFFF_FFFC,),
        ),
        ("load-add-store", "mov eax, dword ptr [G]; add eax, edi; mov dword ptr [G], eax; ret"),
        (
            "load-add-store-64",
            "mov rax, qword ptr [G]; lea rax, [rax + rdi]; mov qword ptr [G], rax; ret",
        ),
        (
            "vector-add",
            (
                "movq xmm1, rdi; movq xmm0, qword ptr [G]; paddq xmm0, xmm1; "
                "movq qword ptr [G], xmm0; ret"
            ),
        ),
        (
            "x87-add",
            (
                "fld1; fadd qword ptr [G]; fst qword ptr [G]; fistp dword ptr [rsp - 8]; "
                "mov eax, dword ptr [rsp - 8]; ret"
            ),
        ),
        ("lock-inc", "lock inc dword ptr [G]; mov eax, dword ptr [G]; ret"),
        ("lock-xadd", "mov eax, edi; lock xadd dword ptr [G], eax; add eax, edi; ret"),
        ("xadd", "mov eax, edi; xadd dword ptr [G], eax; add eax, edi; ret"),
        ("not-and-negate", "not dword ptr [G]; neg dword ptr [G]; mov eax, dword ptr [G]; ret"),
        (
            "push-and-pop",
            "push qword ptr [G]; add qword ptr [rsp], 5; pop qword ptr [G]; mov eax, edi; ret",
        ),
        (
            "by-a-subroutine",
            "call g; call g; ret; g: inc dword ptr [G]; mov eax, dword ptr [G]; ret",
        ),
        # Exchanges
        ("swap", "mov eax, edi; xchg dword ptr [G], eax; lea ecx, [rax + 1]; ret"),
        ("swap-ticket", f"{_TICKET} xchg dword ptr [G], eax; ret"),
        (
            "cmpxchg-loop",
            (
                "mov ecx, 3; again: mov eax, dword ptr [G]; lea edx, [rax + rdi]; lock cmpxchg"
                " dword ptr [G], edx; je done; dec ecx; jnz again; done: mov eax, ecx; ret"
            ),
        ),
        (
            "cmpxchg8b",
            (
                "mov r8, rbx; mov eax, dword ptr [G]; mov edx, dword ptr [G + 4]; lea ebx, [rax +"
                " 1]; lea ecx, [rdx + 2]; lock cmpxchg8b qword ptr [G]; sete al; movzx eax, al; "
                "mov rbx, r8; ret"
            ),
        ),
        # References
        ("put-reference", "lock dec dword ptr [G]; sete al; movzx eax, al; ret", "3", (2,)),
        (
            "get-unless-zero",
            (
                "mov eax, dword ptr [G]; test eax, eax; je out; lea ecx, [rax + 1]; "
                "lock cmpxchg dword ptr [G], ecx; sete al; movzx eax, al; out: ret"
            ),
            "3",
            (1,),
        ),
        # Lists
        (
            "list-push",
            (
                "mov rax, qword ptr [G]; mov qword ptr [rdi], rax; mov qword ptr [G], rdi; "
                "xor eax, eax; ret"
            ),
            "buf:+16",
        ),
        (
            "list-push-cmpxchg",
            (
                "mov rax, qword ptr [G]; mov qword ptr [rdi], rax; "
                "lock cmpxchg qword ptr [G], rdi; sete al; movzx eax, al; ret"
            ),
            "buf:+16",
        ),
        (
            "list-pop",
            (
                "mov rax, qword ptr [G]; test rax, rax; je out; mov rcx, qword ptr [rax]; "
                "mov qword ptr [G], rcx; mov rax, qword ptr [rax + 8]; out: ret"
            ),
            "3",
            _NODES,
        ),
        (
            "list-pop-cmpxchg",
            (
                "mov rax, qword ptr [G]; test rax, rax; je out; mov rcx, qword ptr [rax]; "
                "lock cmpxchg qword ptr [G], rcx; sete cl; movzx eax, cl; out: ret"
            ),
            "3",
            _NODES,
        ),
        (
            "list-sum",
            (
                "xor eax, eax; mov rcx, G; next: add rax, qword ptr [rcx + 8]; "
                "inc qword ptr [rcx + 8]; mov rcx, qword ptr [rcx]; test rcx, rcx; jnz next; ret"
            ),
            "3",
            (DATA_AT + 16, 0, 0, 7),
        ),
        # Queues
        (
            "ring-put",
            (
                "mov eax, dword ptr [G]; mov ecx, eax; and ecx, 3; lea edx, [rax + rdi]; "
                "mov dword ptr [rcx * 4 + G + 16], edx; inc eax; mov dword ptr [G], eax; ret"
            ),
        ),
        (
            "bounded-queue",
            (
                "mov eax, dword ptr [G]; mov ecx, eax; sub ecx, dword ptr [G + 4]; cmp ecx, 1; jae"
                " full; mov dword ptr [G + 16], edi; inc eax; mov dword ptr [G], eax; "
                "mov eax, 1; ret; full: mov eax, dword ptr [G + 16]; inc dword ptr [G + 4]; ret"
            ),
        ),
        (
            "stack-of-words",
            (
                "mov eax, dword ptr [G]; lea ecx, [rax + 1]; mov dword ptr [G], ecx; "
                "mov dword ptr [rax * 4 + G + 16], ecx; ret"
            ),
        ),
        (
            "append-byte",
            (
                "mov eax, dword ptr [G]; mov byte ptr [rax + G + 8], dil; inc eax; "
                "mov dword ptr [G], eax; ret"
            ),
            "0x41",
        ),
        # Numbers
        (
            "rand",
            (
                "imul eax, dword ptr [G], 1103515245; add eax, 12345; mov dword ptr [G], eax; "
                "shr eax, 16; and eax, 0x7fff; ret"
            ),
        ),
        (
            "xorshift",
            (
                "mov eax, dword ptr [G]; mov ecx, eax; shl ecx, 13; xor eax, ecx; mov ecx, eax; "
                "shr ecx, 17; xor eax, ecx; mov dword ptr [G], eax; ret"
            ),
            "3",
            (2463534242,),
        ),
        ("maximum", f"{_TICKET} cmp eax, dword ptr [G]; jle out; mov dword ptr [G], eax; out: ret"),
        (
            "minimum",
            (
                f"{_TICKET} mov ecx, dword ptr [G]; cmp eax, ecx; cmovg eax, ecx; mov dword ptr"
                " [G], eax; ret"
            ),
            "3",
            (50,),
        ),
        (
            "average",
            (
                "add dword ptr [G], edi; inc dword ptr [G + 4]; mov eax, dword ptr [G]; "
                "xor edx, edx; div dword ptr [G + 4]; ret"
            ),
        ),
        # Bits
        ("set-bit", "bts dword ptr [G], edi; setc al; movzx eax, al; ret"),
        ("clear-bit", "lock btr dword ptr [G], edi; setc al; movzx eax, al; ret", "3", (0xFF,)),
        (
            "flip-bits",
            (
                "mov eax, dword ptr [G]; not eax; and eax, 0xff; or dword ptr [G + 4], eax; "
                "xor dword ptr [G], eax; ret"
            ),
        ),
        # Locks, none of which is waited for
        (
            "try-lock",
            (
                "mov eax, 1; xchg dword ptr [G], eax; test eax, eax; jne busy; mov eax, dword ptr"
                " [G + 4]; inc eax; mov dword ptr [G + 4], eax; mov dword ptr [G], 0; ret; "
                "busy: mov eax, -1; ret"
            ),
        ),
        (
            "try-ticket-lock",
            (
                "mov eax, 1; lock xadd dword ptr [G], eax; cmp eax, dword ptr [G + 4]; jne busy;"
                " add dword ptr [G + 8], edi; inc dword ptr [G + 4]; ret; busy: mov eax, -1; ret"
            ),
        ),
        (
            "sequence-write",
            (
                "inc dword ptr [G]; add dword ptr [G + 4], edi; inc dword ptr [G]; "
                "mov eax, dword ptr [G]; ret"
            ),
        ),
        # Blocks
        (
            "copy-in",
            (
                "mov rsi, rdi; mov rdi, G + 16; mov ecx, 2; rep movsb; "
                "mov eax, dword ptr [G + 16]; ret"
            ),
            "buf:01020304",
            (0, 0, 0x0909),
        ),
        (
            "fill",
            f"{_TICKET} mov rdi, G + 16; mov ecx, 2; rep stosd; mov eax, dword ptr [G + 16]; ret",
        ),
        (
            "histogram",
            (
                "mov eax, dword ptr [G]; inc dword ptr [G]; and eax, 3; "
                "inc dword ptr [rax * 4 + G + 16]; ret"
            ),
        ),
    )
)
BY_NAME: Final = {one.name: one for one in FUNCTIONS}


def probed(
    function: SharedFunction, offset: int, *, loses: bool = False, **fields: object
) -> Experiment:
    """A probe's life at ``offset`` of ``function``. ``loses``: its handler does not run on any
    hit.
    """

    def life(k: Control) -> None:
        p = k.kprobe("f", offset)
        if loses:
            p.pre_handler = lambda _p, _regs: 0
        k.register(p)
        k.settle()
        k.unregister(p)
        k.settle()

    preempt = bool(fields.get("preempt"))
    return Experiment(
        image=function.image,
        call="f",
        arguments=(parse_argument(function.argument),),
        code=[("main", life)],
        tag=f"{function.name}+{offset:#x}",
        **{
            "calls": 1,
            "profile": without(NEXT if preempt else LINUX_2010, frozenset(), preempt=preempt),
            **fields,
        },  # type: ignore[arg-type]
    )


def meeting_place(function: SharedFunction, pool: UcPool) -> int:
    """Offset of the first instruction at which two calls meet."""
    return min(find_orders(probed(function, 0, cpus=2), pool).points) - CODE_AT


WAYS: Final = {"two vCPUs": {"cpus": 2}, "preemption": {"preempt": True}}


def results(function: SharedFunction, pool: UcPool, preemptions: int) -> dict[str, CheckResult]:
    """What ``check`` says of it in each way, and with the hit that is lost."""
    at = meeting_place(function, pool)
    search = Search(preemptions=preemptions)
    found = {
        way: check(probed(function, at, **fields), search, pool=pool)
        for way, fields in WAYS.items()
    }  # type: ignore[arg-type]
    lost = {
        f"{way}, a hit lost": check(probed(function, at, loses=True, **fields), search, pool=pool)
        for way, fields in WAYS.items()
    }  # type: ignore[arg-type]
    return found | lost


def is_right(way: str, result: CheckResult) -> bool:
    """Nothing is found but the lost hit, by which ``way`` is known."""
    kinds = {report.violation.kind for report in result.violations}
    return (
        kinds == {ViolationKind.LOST_HIT}
        if "lost" in way
        else kinds == set() and result.outcome.exhaustive
    )


def main(arguments: list[str]) -> int:
    """Check all functions, or those whose names are given. A first argument ``-1`` is a bound of 1
    preemption; it is 2 otherwise.
    """
    bound = int(arguments[0][1:]) if arguments and arguments[0].startswith("-") else 2
    names = [name for name in arguments if not name.startswith("-")]
    chosen = [BY_NAME[name] for name in names] if names else FUNCTIONS
    pool, line, rows, wrong = new_pool(), Progress("shared"), [], 0
    for function in chosen:
        line.note(function.name)
        found = results(function, pool, bound)
        wrong += sum(not is_right(way, result) for way, result in found.items())
        cells = [
            f"{result.outcome.schedules:,} {'' if is_right(way, result) else 'WRONG: '}"
            f"{', '.join(str(report.violation.kind) for report in result.violations) or 'safe'}"
            for way, result in found.items()
        ]
        rows.append([function.name, *cells])
    line.clear()
    print(table(["function", *found], rows))
    print(f"{len(chosen)} functions, {wrong} wrong answers")
    return int(wrong > 0)


if __name__ == "__main__":
    raise SystemExit(main(sys.argv[1:]))
