"""Where a probe may go, and the reason where it may not."""

from __future__ import annotations

import errno

import pytest

from arch_x86.isa.insn import NO_QUIRKS
from arch_x86.probes.code import CodeCache
from arch_x86.probes.eligibility import ProbeRefusal, can_probe, is_ftrace_site
from arch_x86.probes.optimize import Unoptimizable, can_optimize
from engine.image import Image, Range, Reserved, ReservedKind, Segment, Symbol
from tests.probes.images import BASE, cache_of


@pytest.mark.parametrize(
    ("code", "offset", "code_errno", "reason"),
    [
        ("4889e5c3", 0, 0, None),
        ("4889e5c3", 3, 0, None),
        ("4889e5c3", 1, errno.EILSEQ, ProbeRefusal.NOT_BOUNDARY),
        ("90cc90", 1, errno.EINVAL, ProbeRefusal.BREAKPOINT),
        ("90cc90", 2, 0, None),  # an INT3 on the way does not matter
        ("8ed0c3", 0, errno.EINVAL, ProbeRefusal.STACK_SEGMENT),
        ("0f0b78656ec3", 0, errno.EINVAL, ProbeRefusal.FORCED_EMULATION),
        ("ff10c3", 0, errno.EOPNOTSUPP, ProbeRefusal.NOT_EMULATED),
        ("48cf", 0, errno.EOPNOTSUPP, ProbeRefusal.NOT_EMULATED),
        ("6666666666662e0f1f840000000000c3", 0, errno.ENOSPC, ProbeRefusal.NO_ROOM),
        ("90c5f80fc090", 1, errno.EINVAL, ProbeRefusal.UNDECODABLE),
        ("90c5f80fc090", 5, errno.EILSEQ, ProbeRefusal.UNDECODABLE_BEFORE),
        ("90e800", 1, errno.EINVAL, ProbeRefusal.UNDECODABLE),  # cut off by the segment's end
        ("90", 1, errno.ENOENT, ProbeRefusal.NOT_MAPPED),
    ],
)
def test_by_the_code(code: str, offset: int, code_errno: int, reason: ProbeRefusal | None) -> None:
    verdict = can_probe(cache_of(bytes.fromhex(code)), BASE + offset)
    assert (verdict.errno, verdict.reason) == (code_errno, reason)
    assert bool(verdict) is (code_errno == 0)


@pytest.mark.parametrize(
    ("kind", "reason"),
    [
        (ReservedKind.JUMP_LABEL, ProbeRefusal.JUMP_LABEL),
        (ReservedKind.STATIC_CALL, ProbeRefusal.STATIC_CALL),
        (ReservedKind.BUG, ProbeRefusal.BUG_ENTRY),
        (ReservedKind.ALTERNATIVES, ProbeRefusal.ALTERNATIVES),
    ],
)
def test_reserved_text_comes_before_boundaries(kind: ReservedKind, reason: ProbeRefusal) -> None:
    cache = cache_of(bytes.fromhex("0f1f440000c3"), reserved=(Reserved(BASE, 2, kind),))
    assert [can_probe(cache, BASE + offset).reason for offset in (0, 1, 2, 5)] == [
        reason,
        reason,
        ProbeRefusal.NOT_BOUNDARY,
        None,
    ]
    assert can_probe(cache, BASE).errno == errno.EINVAL


def test_ftrace_sites_take_probes_of_another_kind() -> None:
    sites = (Reserved(BASE, 5, ReservedKind.FTRACE), Reserved(BASE, 5, ReservedKind.FTRACE_SITE))
    cache = cache_of(bytes.fromhex("e800000000c3"), reserved=sites)
    assert can_probe(cache, BASE).errno == 0
    assert is_ftrace_site(cache, BASE)
    assert can_optimize(cache, BASE) is Unoptimizable.FTRACE_SITE
    assert can_probe(cache, BASE + 1).errno == errno.EILSEQ
    assert not is_ftrace_site(cache, BASE + 5)


def _image(**lists: object) -> Image:
    symbols = (
        Symbol("f", BASE, 2),
        Symbol("f.cold", BASE + 2, 2),
        Symbol("g.cold", BASE + 4, 2),
        Symbol("data", BASE + 0x1000, 8, function=False),
    )
    segments = (
        Segment(BASE, b"\x90" * 8, 8),
        Segment(BASE + 0x1000, bytes(8), 8, executable=False),
    )
    return Image(name="test", segments=segments, symbols=symbols, **lists)  # type: ignore[arg-type]


def test_blacklist_covers_parts_split_off() -> None:
    cache = CodeCache(_image(blacklist=(Range(BASE, 2),)))
    reasons = [can_probe(cache, BASE + offset).reason for offset in range(6)]
    assert reasons == [ProbeRefusal.BLACKLISTED] * 4 + [None] * 2


def test_data_and_text_without_a_function() -> None:
    cache = CodeCache(_image())
    assert can_probe(cache, BASE + 0x1000).reason is ProbeRefusal.NOT_TEXT
    assert can_probe(cache, BASE + 0x1000).errno == errno.EINVAL
    assert can_probe(cache, BASE + 6).reason is ProbeRefusal.NO_FUNCTION
    assert can_probe(cache, BASE - 1).reason is ProbeRefusal.NOT_MAPPED
    assert can_probe(cache, (1 << 64) - 1).reason is ProbeRefusal.NOT_MAPPED


def test_without_quirks_vector_code_is_not_taken_for_branches() -> None:
    cache = cache_of(bytes.fromhex("c5f9eac1c3"))  # vpminsw
    assert can_probe(cache, BASE).reason is ProbeRefusal.NOT_EMULATED
    assert can_probe(CodeCache(cache.image, quirks=NO_QUIRKS), BASE).errno == 0
