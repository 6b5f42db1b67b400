"""What a planted fault of the core is, and how a test shows that an oracle finds it."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

from engine.core.ablation import without
from engine.core.profiles import LINUX_2010
from engine.patching.experiment import Experiment
from engine.patching.search_options import Search
from engine.search.explorable import ViolationKind
from engine.syntax.arguments import parse_argument
from tests.conftest import asm_image
from tests.explore.experiments import check

CODE = "mov eax, edi; inc eax; lea ecx, [rax + rax*2]; add eax, ecx; xor eax, 0x55; ret"
STEPPED, SITE, INSIDE, NO_ROOM = 2, 4, 7, 9
LOST, EXTRA, BROKEN = ViolationKind.LOST_HIT, ViolationKind.EXTRA_HIT, ViolationKind.INVARIANT


def case(
    code: Callable[[Any], None],
    *others: Callable[[Any], None],
    profile=LINUX_2010,
    image=CODE,
    **fields,
) -> Experiment:
    return Experiment(
        image=image if not isinstance(image, str) else asm_image(image),
        call="f",
        arguments=(parse_argument("5"),),
        calls=fields.pop("calls", 1),
        profile=without(profile, frozenset()),
        code=[(f"task{n}", one) for n, one in enumerate((code, *others))],
        tag="test",
        **fields,
    )


def found(
    pool, one: Experiment, bound: int, most: int | None = None
) -> list[tuple[ViolationKind, str]]:
    result = check(one, Search(preemptions=bound, recheck_every=0, max_schedules=most), pool=pool)
    return [(report.violation.kind, report.violation.explain) for report in result.violations]


def in_and_out(k, offset=SITE, **kwargs):
    p = k.kprobe("f", offset, **kwargs)
    k.register(p)
    k.settle()
    k.unregister(p)
    k.settle()


def two_at_once(k, offset=SITE, *, settle=True, post=False, disable=False):
    first, second = k.kprobe("f", offset, post=post), k.kprobe("f", offset, post=post)
    k.register(first)
    k.register(second)
    if settle:
        k.settle()
    if disable:
        k.disable(second)
    k.unregister(first, second)
    k.settle()


def returns(k, maxactive=8, number=1):
    rps = [k.kretprobe("g", maxactive) for _ in range(number)]
    for rp in rps:
        k.register_return(rp)
    for rp in rps:
        k.unregister_return(rp)
    k.settle()


def two_returns(k):
    returns(k, number=2)


def nothing(*_args, **_kwargs):
    return None


@dataclass(frozen=True)
class Fault:
    """``name`` of ``where`` becomes ``fault``; what control task ``code`` does shows it, and a
    violation of ``kind`` says ``words``.
    """

    where: Any
    name: str
    fault: Any
    code: Callable[[Any], None]
    kind: ViolationKind
    words: str
    profile: Any = LINUX_2010
    image: Any = CODE
    bound: int = 0
    calls: int = 1
    nmis: bool = False
    most: int | None = None
    resched: tuple[int, ...] = ()
    restores: bool = True


G = (
    "push rbx; mov ebx, edi; call 0x10000100; call 0x10000100; add eax, ebx; pop rbx; ret",
    "lea eax, [rdi + 1]; lea ecx, [rax + 1]; ret",
)


def shows(pool, monkeypatch, fault: Fault) -> None:
    """What the fault's control task does is sound without the fault, and with it what the oracle
    says of it is what the fault says.
    """
    image = asm_image(*fault.image) if isinstance(fault.image, tuple) else fault.image
    some = {
        "nmis": fault.nmis,
        "resched": fault.resched,
        "interrupts": not fault.nmis and not fault.resched,
    }
    one = case(
        fault.code,
        profile=fault.profile,
        image=image,
        calls=fault.calls,
        restores=fault.restores,
        **some,
    )
    assert found(pool, one, fault.bound, fault.most) == []
    where = import_module(fault.where) if isinstance(fault.where, str) else fault.where
    monkeypatch.setattr(where, fault.name, fault.fault)
    (violation,) = found(pool, one, fault.bound, fault.most)
    assert violation[0] is fault.kind, violation
    assert fault.words in violation[1]
