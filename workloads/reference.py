# SPDX-License-Identifier: GPL-2.0-only
"""Calls of the workloads with their expected outcome, computed by Python.

No outcome was taken from an emulator. A call follows the System V convention with the direction
flag clear. Its image is loaded afresh, so that global data is as in the file.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from typing import TYPE_CHECKING

from .shapes import (
    Call,
    flow_calls,
    jcc_calls,
    misc_calls,
    red_zone_calls,
    rip_calls,
    string_calls,
    u64,
)

if TYPE_CHECKING:
    from collections.abc import Iterable, Iterator

__all__ = ("Case", "cases")

ERROR = 1 << 63  # the result of interp for a program that it can't go on with
BAD = (1 << 64) - 1  # the result of lz_decompress for bad input; also -1
TEXT = (
    b"How much wood would a woodchuck chuck if a woodchuck could chuck wood? As much wood as a"
    b" woodchuck would. "
)

# Calls of whole algorithms that end within 200 instructions. All calls of shapes do.
SHORT = frozenset(
    {
        *("sort_i32-0", "sort_i32-1", "sort_i32-2", "sort_i64-1"),
        *("interp-xor", "interp-empty", "interp-underflow", "interp-unknown", "interp-no-halt"),
        *("lz-literals", "lz-match", "lz-damaged", "lz-no-room"),
        *("rep_memcpy-13", "rep_memset-13", "rep_fill_copy-0"),
        *("sse2-tiny", "sse2-short-hay", "sse2-empty-needle", "sse2-long-needle"),
        *("canary_hash-0", "canary_hash-5", "canary_add"),
        *("dyn_step", "dyn_twice", "dyn_apply-0", "dyn_apply-1", "dyn_apply-2", "dyn_apply-3"),
        *("tls_count", "tls_sum-0", "tls_sum-9", "ifunc_sum-0", "ifunc_sum-9", "ifunc_both-9"),
    }
)


@dataclass(frozen=True, slots=True)
class Case:
    """One call and what it must give."""

    name: str
    """A name of its own; those for relocatable objects lack the image's kind.

    So ``sha256-64`` is a call of ``sha256.o``, and ``sha256-64-so`` one of ``sha256.so``.
    """
    image: str
    """The file's name under ``workloads/elf/``."""
    symbol: str
    args: tuple[str, ...]
    """As on the command line: ``5``, ``-3``, ``0x10``, ``f64:1.5``, ``buf:HEX``, ``buf:+SIZE``."""
    result: int | None
    """The value of RAX, unsigned; None where the function returns a pointer."""
    buffers: tuple[bytes, ...]
    """The content of each ``buf`` argument afterwards, in order."""
    short: bool
    """Whether the call executes at most 200 instructions."""


def cases() -> tuple[Case, ...]:
    """All calls: at least one of each function of each image under ``elf/``."""
    found: list[Case] = []
    algorithms = (
        ("sha256", _sha256_calls),
        ("qsort", _sort_calls),
        ("interp", _interp_calls),
        ("lz", _lz_calls),
        ("repstr", _repstr_calls),
        ("sse2", _sse2_calls),
        ("canary", _canary_calls),
        ("dyn", _dyn_calls),
        ("tls", _tls_calls),
        ("ifunc", _ifunc_calls),
    )
    for name, calls in algorithms:
        for image, suffix in ((f"{name}.o", ""), (f"{name}.so", "-so")):
            found += _cases(image, calls(), suffix)
    shapes = (
        ("rip", rip_calls),
        ("flow", flow_calls),
        ("jcc", jcc_calls),
        ("str", string_calls),
        ("misc", misc_calls),
    )
    for name, calls in shapes:
        found += _cases(f"shapes_{name}.o", calls(), "")
        found += _cases("shapes.so", calls(), "-so")
    found += _cases("shapes.so", red_zone_calls(), "-so")
    found += _cases("libmix", _mix_calls(), "-exec")
    return tuple(found)


def _cases(image: str, calls: Iterable[Call], suffix: str) -> Iterator[Case]:
    """``calls`` of ``image`` with names that end in ``suffix``."""
    for call in calls:
        # The label of an algorithm's call is its whole name; that of a shape's call tells several
        # calls of one function apart.
        shape = call.symbol.startswith("shape_")
        name = (
            "-".join(filter(None, (call.symbol, call.label)))
            if shape
            else call.label or call.symbol
        )
        short = shape or name in SHORT
        yield Case(name + suffix, image, call.symbol, call.args, call.result, call.buffers, short)


def _bytes(n: int, seed: int) -> bytes:
    """``n`` bytes that look random: the upper bits of a linear congruential generator."""
    state, out = seed, bytearray()
    for _ in range(n):
        state = u64(state * 6364136223846793005 + 1442695040888963407)
        out.append(state >> 56)
    return bytes(out)


def _buf(data: bytes) -> str:
    return f"buf:{data.hex()}"


def _sha256_calls() -> Iterator[Call]:
    for length in (0, 3, 64, 200):
        message = b"abc" if length == 3 else _bytes(length, length)
        given = message or b"\0"  # an empty buffer has no address of its own
        digest = hashlib.sha256(message).digest()
        args = (_buf(given), str(length), "buf:+32")
        yield Call(
            "sha256", args, int.from_bytes(digest[:8], "big"), (given, digest), f"sha256-{length}"
        )


def _sort_calls() -> Iterator[Call]:
    def call(symbol: str, values: list[int], size: int, label: str) -> Call:
        def pack(items: list[int]) -> bytes:
            return b"".join(item.to_bytes(size, "little", signed=True) for item in items) or bytes(
                size
            )

        ordered = sorted(values)
        checksum = u64(sum(value * position for position, value in enumerate(ordered, 1)))
        return Call(
            symbol,
            (_buf(pack(values)), str(len(values))),
            checksum,
            (pack(ordered),),
            f"{symbol}-{label}",
        )

    def numbers(n: int, size: int) -> list[int]:
        raw = _bytes(n * size, n)
        return [
            int.from_bytes(raw[i : i + size], "little", signed=True)
            for i in range(0, len(raw), size)
        ]

    for n in (0, 1, 2, 40):
        yield call("sort_i32", numbers(n, 4), 4, str(n))
    yield call("sort_i32", list(range(-12, 12)), 4, "sorted")
    yield call("sort_i32", [3, 1, 2] * 6, 4, "equal")
    for n in (1, 20):
        yield call("sort_i64", numbers(n, 8), 8, str(n))


# The operations of interp, in the order in which its source lists them.
_OPERATIONS = (
    "halt",
    "push",
    "arg",
    "add",
    "sub",
    "mul",
    "and",
    "xor",
    "dup",
    "drop",
    "swap",
    "over",
    "jnz",
    "shr",
)


def _program(source: str) -> bytes:
    """The byte code of ``source``.

    It consists of operations and numbers; ``name:`` is a label, and ``@name`` the distance to it.
    """
    words = [word for word in source.split() if not word.endswith(":")]
    labels: dict[str, int] = {}
    at = 0
    for word in source.split():
        if word.endswith(":"):
            labels[word[:-1]] = at
        else:
            at += 1
    code = bytearray()
    for word in words:
        if word.startswith("@"):
            code.append((labels[word[1:]] - len(code) - 1) & 0xFF)
        else:
            code.append(_OPERATIONS.index(word) if word in _OPERATIONS else int(word, 0) & 0xFF)
    return bytes(code)


def _collatz(x: int) -> int:
    steps = 0
    while x != 1:
        x = 3 * x + 1 if x & 1 else x >> 1
        steps += 1
    return steps


def _interp_calls() -> Iterator[Call]:
    def call(label: str, source: str, arg: int, result: int) -> Call:
        code = _program(source)
        return Call(
            "interp",
            (_buf(code or b"\0"), str(len(code)), str(arg)),
            result,
            (code or b"\0",),
            f"interp-{label}",
        )

    fold = "push {start} arg loop: swap over {op} swap push 1 sub dup jnz @loop drop halt"
    yield call("sum", fold.format(start=0, op="add"), 30, sum(range(31)))
    yield call("factorial", fold.format(start=1, op="mul"), 20, math.factorial(20))
    collatz = """
        push 0 arg
        loop: swap push 1 add swap
              dup push 1 and jnz @odd
              shr 1 push 1 jnz @test
        odd:  push 3 mul push 1 add
        test: dup push 1 sub jnz @loop
        drop halt"""
    yield call("collatz", collatz, 6, _collatz(6))
    yield call("xor", "arg push 0x55 xor halt", 0x1234, 0x1234 ^ 0x55)
    yield call("empty", "halt", 0, 0)
    yield call("underflow", "arg add halt", 1, ERROR)
    yield call("unknown", "arg 200 halt", 1, ERROR)
    yield call("no-halt", "", 1, ERROR)
    yield call("overflow", "arg loop: dup push 1 jnz @loop", 1, ERROR)


def _compress(data: bytes) -> bytes:
    """``data`` in the format of lz.c, compressed greedily with the longest and nearest match."""
    out, literals, at = bytearray(), bytearray(), 0

    def flush() -> None:
        for start in range(0, len(literals), 128):
            run = literals[start : start + 128]
            out.extend((len(run) - 1, *run))
        literals.clear()

    while at < len(data):
        length, back = 0, 0
        for candidate in range(at - 1, -1, -1):
            n = 0
            while n < 130 and at + n < len(data) and data[candidate + n] == data[at + n]:
                n += 1
            if n > length:
                length, back = n, at - candidate
        if length >= 3:
            flush()
            out += bytes((0x80 | length - 3,)) + back.to_bytes(2, "little")
            at += length
        else:
            literals.append(data[at])
            at += 1
    flush()
    return bytes(out)


def _lz_calls() -> Iterator[Call]:
    def call(label: str, packed: bytes, room: int, written: bytes, result: int) -> Call:
        args = (_buf(packed), str(len(packed)), f"buf:+{room}", str(room))
        return Call(
            "lz_decompress", args, result, (packed, written.ljust(room, b"\0")), f"lz-{label}"
        )

    def good(label: str, data: bytes) -> Call:
        return call(label, _compress(data), len(data) + 3, data, len(data))

    yield good("text", TEXT * 3)
    yield good("noise", _bytes(200, 7))
    yield good("run", b"-" * 150)
    yield good("literals", b"probe")
    yield good("match", b"abcabcabcabc")
    # The first call has a distance beyond what has been written, behind two literals. The second
    # has a run of literals for which the buffer is too small.
    yield call("damaged", b"\x01ab\x80\x03\x00", 16, b"ab", BAD)
    yield call("no-room", b"\x01ab\x05cdefgh", 7, b"ab", BAD)


def _repstr_calls() -> Iterator[Call]:
    for n in (13, 500):
        data = _bytes(n, n)
        yield Call(
            "rep_memcpy", (f"buf:+{n}", _buf(data), str(n)), None, (data, data), f"rep_memcpy-{n}"
        )
        yield Call(
            "rep_memset",
            (f"buf:+{n + 1}", "0x1a5", str(n)),
            None,
            (b"\xa5" * n + b"\0",),
            f"rep_memset-{n}",
        )
    for n in (0, 39, 300):
        data = _bytes(max(n, 8), n)
        content = data[: n // 2] + b"\x5a" * (n - n // 2)
        checksum = 0
        for byte in content:
            checksum = u64(checksum * 31 + byte)
        args = (f"buf:+{n + 1}", _buf(data), str(n), "0x5a")
        yield Call("rep_fill_copy", args, checksum, (content + b"\0", data), f"rep_fill_copy-{n}")


def _find(hay: bytes, needle: bytes, label: str) -> Call:
    """A call of sse2_find, which looks for ``needle`` in ``hay``."""
    given = needle or b"\0"
    args = (_buf(hay), str(len(hay)), _buf(given), str(len(needle)))
    return Call("sse2_find", args, u64(hay.find(needle)), (hay, given), f"sse2-{label}")


def _sse2_calls() -> Iterator[Call]:
    yield _find(TEXT * 4 + b"would a probe" + TEXT, b"would a probe", "long")
    yield _find(TEXT * 4, b"woodchip", "absent")
    yield _find(TEXT + b"!?", b"!?", "tail")
    yield _find(TEXT, b"much", "tiny")
    yield _find(b"kprobe", b"probe", "short-hay")
    yield _find(TEXT, b"", "empty-needle")
    yield _find(b"probe", b"kprobe", "long-needle")


def _canary_calls() -> Iterator[Call]:
    for n in (0, 5, 40):
        data = _bytes(max(n, 1), 11)
        value = 5381
        for byte in reversed(data[: min(n, 32)]):
            value = u64(value * 33) ^ byte
        yield Call("canary_hash", (_buf(data), str(n)), value, (data,), f"canary_hash-{n}")
    yield Call("canary_add", ("-7", "4"), u64(-3), label="canary_add")


def _dyn_calls() -> Iterator[Call]:
    def step(x: int) -> int:
        return 3 * x + 1000

    yield Call("dyn_step", ("-5",), step(-5), label="dyn_step")
    yield Call("dyn_twice", ("7",), step(step(7) + 1) + 1, label="dyn_twice")
    for which, value in enumerate((step(9), -9, 81, step(9))):
        # The last total of the table counts its own entry twice when that is the one that was
        # called.
        last = 2 * value if which == 3 else value
        first = value if which == 0 else 0
        yield Call(
            "dyn_apply", ("9", str(which)), u64(2 * last + first), label=f"dyn_apply-{which}"
        )


def _tls_calls() -> Iterator[Call]:
    yield Call("tls_count", ("7",), u64(-1 * 1000 + 107), label="tls_count")
    for n in (0, 9, 60):
        data = bytes(range(3, 3 + n))
        history = [0] * 48
        value = 5
        for i, byte in enumerate(data[:48]):
            value += history[i // 2] + byte
            history[i // 2] = byte
        yield Call(
            "tls_sum",
            (_buf(data) if data else "0", str(n)),
            value,
            (data,) if data else (),
            f"tls_sum-{n}",
        )


def _ifunc_calls() -> Iterator[Call]:
    for n in (0, 9, 80):
        data = bytes(range(100, 100 + n))
        yield Call(
            "ifunc_sum",
            (_buf(data) if data else "0", str(n)),
            sum(data),
            (data,) if data else (),
            f"ifunc_sum-{n}",
        )
    data = bytes(range(201, 210))
    value = 2 * sum(data)
    yield Call(
        "ifunc_both",
        (_buf(data), "9"),
        value | (value.bit_count() & 1) << 63,
        (data,),
        "ifunc_both-9",
    )


def _mix_calls() -> Iterator[Call]:
    yield next(call for call in _sha256_calls() if call.label == "sha256-64")
    yield _find(TEXT, b"much", "tiny")
    for label, message in (("found", bytes(range(10, 130))), ("absent", b"abc")):
        first = hashlib.sha256(message).digest()[:1]
        yield Call(
            "mix_find_digest",
            (_buf(message), str(len(message))),
            u64(message.find(first)),
            (message,),
            f"mix-{label}",
        )
