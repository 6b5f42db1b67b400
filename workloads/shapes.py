# SPDX-License-Identifier: GPL-2.0-only
"""What the functions of ``shapes_*.S`` return, computed by Python.

Values are arithmetic on Python integers, by what each instruction is documented to do (SDM volume
2), never a run of the code.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from collections.abc import Callable, Iterator

__all__ = (
    "Call",
    "flow_calls",
    "jcc_calls",
    "misc_calls",
    "red_zone_calls",
    "rip_calls",
    "string_calls",
    "u64",
)

MASK = (1 << 64) - 1
INT_MIN = -(1 << 63)
INT_MAX = (1 << 63) - 1

# the data of shapes_rip.S
V64 = 0x1122334455667788
W64 = 0x0123456789ABCDEF
D64 = 1000003
V32 = 0x91223344
V16 = 0xFEDC
V8 = 0x80

CONDITIONS = (
    "o",
    "no",
    "b",
    "ae",
    "e",
    "ne",
    "be",
    "a",
    "s",
    "ns",
    "p",
    "np",
    "l",
    "ge",
    "le",
    "g",
)

# Each condition is true for one of these pairs, and false for one.
PAIRS = ((5, 5), (3, 7), (7, 3), (-1, 1), (1, -1), (INT_MIN, 1), (INT_MAX, -1))


@dataclass(frozen=True, slots=True)
class Call:
    """One call of ``symbol``. The fields are those of ``reference.Case``.

    :ivar label: tells several calls of one symbol apart.
    """

    symbol: str
    args: tuple[str, ...]
    result: int | None
    buffers: tuple[bytes, ...] = ()
    label: str = ""


def u64(value: int) -> int:
    """``value`` as a 64-bit register shows it."""
    return value & MASK


def signed(value: int, bits: int) -> int:
    """The low ``bits`` bits of ``value`` as two's complement."""
    value &= (1 << bits) - 1
    return value - (1 << bits) if value >> (bits - 1) else value


def conditions(a: int, b: int) -> tuple[bool, ...]:
    """Whether each of CONDITIONS is true behind ``cmp a, b`` of 64-bit registers."""
    difference = u64(a - b)
    carry, zero, sign = u64(a) < u64(b), difference == 0, bool(difference >> 63)
    overflow = signed(a, 64) - signed(b, 64) != signed(difference, 64)
    parity = (difference & 0xFF).bit_count() % 2 == 0
    half = (
        overflow,
        carry,
        zero,
        carry or zero,
        sign,
        parity,
        sign != overflow,
        zero or sign != overflow,
    )
    return tuple(truth for positive in half for truth in (positive, not positive))


def status_of_sum(a: int, b: int) -> int:
    """The status flags behind ``add a, b`` of 64-bit registers, at their bits of RFLAGS."""
    total = u64(a + b)
    flags = int(u64(a) + u64(b) > MASK)
    flags |= ((total & 0xFF).bit_count() % 2 == 0) << 2
    flags |= ((a & 15) + (b & 15) > 15) << 4
    flags |= (total == 0) << 6
    flags |= (total >> 63) << 7
    return flags | (signed(a, 64) + signed(b, 64) != signed(total, 64)) << 11


def jcc_calls() -> Iterator[Call]:
    """Calls for each condition in both forms, once taken and once not taken."""
    for index, name in enumerate(CONDITIONS):
        for wanted, label in ((True, "taken"), (False, "not-taken")):
            a, b = next(pair for pair in PAIRS if conditions(*pair)[index] == wanted)
            for form in ("short", "near"):
                yield Call(
                    f"shape_jcc_{form}_{name}", (str(a), str(b)), 1 if wanted else 2, label=label
                )


def _sse_lanes() -> int:
    a, b = (1, 2, 3, 4), (10, 20, 30, 40)
    lanes = [(x + y) ^ z for x, y, z in zip(a, b, reversed(b), strict=True)]
    return u64((lanes[0] | lanes[1] << 32) + 3 * (lanes[2] | lanes[3] << 32))


def _alu() -> int:
    shifted = u64(signed(V32, 32) >> 2) & 0xFFFFFFFF
    return u64(V64 * 0x01000193 + W64 * 3 + (V64 << 3) + shifted + (shifted >> 4 & 1))


def _muldiv(x: int) -> int:
    product = x * W64
    return u64(sum(divmod(u64(product) ^ product >> 64, D64)))


def _cmp_imm(x: int) -> int:
    return (x == 0x11223344) | (signed(x, 32) > 7) << 1 | (x >> 31 & 1) << 2 | (V8 == 0x80) << 3


def _exchange(expected: int, new: int) -> int:
    hit = expected == V64
    return u64(V64 + 2 * (new if hit else V64) + hit)


def rip_calls() -> Iterator[Call]:
    """The calls of shapes_rip.S, whose operands are relative to RIP."""
    yield Call("shape_rip_load", ("0x10",), V64 + 0x10)
    yield Call("shape_rip_load_narrow", (), u64(V8 + signed(V16, 16) + signed(V32, 32)))
    yield Call("shape_rip_store", ("0x123456789abcdef0",), u64(~0x123456789ABCDEF0))
    yield Call("shape_rip_store_imm", (), u64(-0x7FFFFFF0 + 0x5A + 0x1234 + 0x01020304))
    yield Call("shape_rip_push", ("0x88",), V64 - 0x88)
    yield Call("shape_rip_pop", ("77",), u64(-77))
    for symbol in ("shape_rip_cmpxchg", "shape_rip_lock_cmpxchg"):
        yield Call(symbol, (hex(V64), "1000"), _exchange(V64, 1000), label="equal")
        yield Call(symbol, ("5", "1000"), _exchange(5, 1000), label="different")
    yield Call("shape_rip_add", ("1000",), (V64 + 1000 + 5) ^ (V32 + 0x12345))
    yield Call("shape_rip_lock_xadd", ("4096",), (V64 + 4096) ^ V64)
    yield Call("shape_rip_lock_inc", (), (V64 + 1) ^ (V32 - 1))
    yield Call("shape_rip_xchg", ("12345",), V64 - 12345)
    yield Call("shape_rip_lea", ("3",), 8 + V64 + 3)
    yield Call("shape_rip_cmp_imm", ("0x11223344",), _cmp_imm(0x11223344), label="equal")
    yield Call("shape_rip_cmp_imm", ("7",), _cmp_imm(7), label="less")
    yield Call("shape_rip_cmp_imm", ("0x80000001",), _cmp_imm(0x80000001), label="negative")
    yield Call("shape_rip_alu", (), _alu())
    yield Call("shape_rip_muldiv", ("987654321",), _muldiv(987654321))
    yield Call("shape_rip_cmov", ("0",), V64, label="moved")
    yield Call("shape_rip_cmov", ("9",), 9, label="kept")
    yield Call("shape_rip_sse", (), _sse_lanes())
    yield Call("shape_rip_f64", ("f64:1.5", "f64:8.25"), int((1.5 + 8.25) * 2.5))
    yield Call(
        "shape_rip_f64", ("f64:-20.0", "f64:0.5"), u64(int((-20.0 + 0.5) * 2.5)), label="negative"
    )
    yield Call("shape_rip_x87", ("5",), int(5 * 2.5 + 0.5))
    yield Call("shape_rip_call_mem", ("21",), 2 * 21 + 1)
    yield Call("shape_rip_jmp_mem", ("21",), 2 * 21)


def _counted(n: int, until: Callable[[int], bool]) -> int:
    """What a function with loope or loopne returns.

    It counts up to ``n`` or until the condition holds; what is left of ``n`` is in the upper bytes.
    """
    count = next((i for i in range(1, n) if until(i)), n)
    return count + ((n - count) << 8)


def flow_calls() -> Iterator[Call]:
    """The calls of shapes_flow.S: calls, jumps, loops and the stack."""
    yield Call("shape_call_direct", ("5",), 3 * 5 + 1 + 5)
    yield Call("shape_call_section", ("5",), 7 * 5 - 1)
    yield Call("shape_call_next", ("55",), 55)
    yield Call("shape_call_reg", ("5",), 3 * 5 + 2)
    yield Call("shape_call_rsp_mem", ("5",), 3 * 5 + 1)
    yield Call("shape_jmp_short", ("5",), 6)
    yield Call("shape_jmp_near", ("5",), 7)
    yield Call("shape_jmp_reg", ("5",), 8)
    for x in range(4):
        yield Call("shape_jmp_table", (str(x),), 10 + 11 * x, label=str(x))
    yield Call("shape_tail", ("5",), 7 * 6)
    for symbol, bits in (("shape_jrcxz", 64), ("shape_jecxz", 32)):
        for label, x in (("zero", 0), ("one", 1), ("high", 1 << 32)):
            yield Call(symbol, (hex(x),), 2 if x % (1 << bits) else 1, label=label)
    yield Call("shape_loop", ("10",), sum(range(11)))
    yield Call("shape_loope", ("20", "8"), _counted(20, lambda i: bool(i & 8)), label="flag")
    yield Call("shape_loope", ("5", "8"), _counted(5, lambda i: bool(i & 8)), label="count")
    yield Call("shape_loopne", ("20", "6"), _counted(20, lambda i: i == 6), label="flag")
    yield Call("shape_loopne", ("5", "6"), _counted(5, lambda i: i == 6), label="count")
    yield Call("shape_backedge", ("12",), sum(range(13)))
    yield Call("shape_recurse", ("8",), sum(range(9)))
    yield Call("shape_enter_leave", ("21",), 42)
    yield Call("shape_ret_imm", ("6",), 30)
    yield Call("shape_rep_ret", ("-3",), u64(-3))
    yield Call("shape_tiny", ("-3",), u64(-3))
    yield Call("shape_push_rsp", ("4",), 4)
    yield Call("shape_pop_rsp", ("4",), 36)
    yield Call("shape_push_rsp_mem", ("4",), 8)
    yield Call("shape_pop_rsp_mem", ("4",), 4)
    yield Call("shape_push_imm", ("1",), 0x12345678 - 2 + 1)


def _looked_at(hit: int, n: int) -> int:
    """How many bytes a repeated comparison looks at that ends at ``hit`` (-1: never)."""
    return n if hit < 0 else hit + 1


def string_calls() -> Iterator[Call]:
    """The calls of shapes_str.S: string instructions."""
    text = b"The five boxing wizards."
    size, into = len(text), f"buf:+{len(text)}"
    given = f"buf:{text.hex()}"
    yield Call("shape_rep_movsb", (into, given, str(size)), size, (text, text))
    yield Call("shape_rep_movsb", (into, given, "0"), 0, (bytes(size), text), label="none")
    yield Call("shape_rep_movsq", (into, given, "2"), 16, (text[:16] + bytes(size - 16), text))
    yield Call("shape_rep_stosb", (into, "0x141", "7"), 7, (b"A" * 7 + bytes(size - 7),))
    yield Call("shape_rep_stosd", (into, "0x44434241", "3"), 12, (b"ABCD" * 3 + bytes(size - 12),))
    for label, byte in (("found", b"x"), ("last", b"."), ("absent", b"?")):
        hit = text.find(byte)
        yield Call(
            "shape_repne_scasb",
            (given, str(byte[0]), str(size)),
            2 * _looked_at(hit, size) + (hit >= 0),
            (text,),
            label,
        )
    for label, at, change in (("same", -1, 0), ("less", 9, -1), ("greater", 14, 1)):
        other = bytes(c + change if i == at else c for i, c in enumerate(text))
        result = 2 * _looked_at(at, size) + (change < 0)
        yield Call(
            "shape_repe_cmpsb",
            (given, f"buf:{other.hex()}", str(size)),
            result,
            (text, other),
            label,
        )
    yield Call("shape_lodsb", (given, "10"), sum(text[:10]), (text,))
    yield Call("shape_movs_once", (into, given), 15, (text[:15] + bytes(size - 15), text))
    moved = text[:5] + text[:12] + text[17:]
    yield Call("shape_std_movsb", (given, "12", "5"), 12, (moved,))
    table = bytes((7 * i + 3) % 256 for i in range(256))
    yield Call("shape_xlat", (f"buf:{table.hex()}", "0x1c8"), table[0xC8], (table,))


def _swapped(value: int, size: int) -> int:
    return int.from_bytes((value & ((1 << 8 * size) - 1)).to_bytes(size, "little"), "big")


def _shifted(x: int, y: int, n: int) -> int:
    upper = u64((x << 64 | y) << n >> 64)
    return u64(upper << n | upper >> (64 - n))


def _quotient(a: int, b: int) -> int:
    quotient = abs(a) // abs(b) * (1 if (a < 0) == (b < 0) else -1)
    return u64(quotient + 1000 * (a - quotient * b))


def _condition_calls() -> Iterator[Call]:
    """Calls that test all sixteen conditions at once."""
    for index, (a, b) in enumerate(PAIRS):
        truth = bytes(conditions(a, b))
        lower, upper = int.from_bytes(truth[:8], "little"), int.from_bytes(truth[8:], "little")
        args = (str(a), str(b))
        yield Call("shape_setcc", (*args, "buf:+16"), u64(lower + 2 * upper), (truth,), str(index))
        yield Call("shape_cmov", args, int("".join(map(str, truth)), 2), label=str(index))


def _lock_calls() -> Iterator[Call]:
    word = 0x0102030405060708
    given = f"buf:{word.to_bytes(8, 'little').hex()}"

    def after(value: int) -> tuple[bytes, ...]:
        return (u64(value).to_bytes(8, "little"),)

    yield Call("shape_lock_inc", (given,), (word + 1) & 0xFFFFFFFF, after(word + 1))
    yield Call("shape_lock_xadd", (given, "-2"), word, after(word - 2))
    yield Call("shape_lock_cmpxchg", (given, hex(word), "99"), word, after(99), "equal")
    yield Call("shape_lock_cmpxchg", (given, "1", "99"), word, after(word), "different")
    # Bits 0 to 7 of the first byte are 0x08; bit 70 is in the second 64-bit word.
    bits = bytes.fromhex("0800000000000000") * 2
    string = f"buf:{bits.hex()}"
    yield Call("shape_lock_bts", (string, "3"), 1, (bits,), "set")
    yield Call("shape_lock_bts", (string, "70"), 0, (bits[:8] + b"\x48" + bits[9:],), "clear")


def misc_calls() -> Iterator[Call]:
    """The calls of shapes_misc.S: flags, locks, and single instructions of many kinds."""
    for label, a, b in (
        ("carry", -1, 1),
        ("overflow", INT_MAX, 1),
        ("sign", -5, 2),
        ("none", 1, 1),
    ):
        yield Call("shape_pushf", (str(a), str(b)), status_of_sum(a, b), label=label)
    for x in (0, 0xFFF, 0x441):
        yield Call("shape_popf", (hex(x),), x & 0x8D5, label=hex(x))
        yield Call("shape_lahf_sahf", (hex(x),), x & 0xD5 | 2, label=hex(x))
    yield Call("shape_flags_live", ("-1", "1"), 10, label="carry")
    yield Call("shape_flags_live", ("1", "1"), 9, label="no-carry")
    yield from _condition_calls()
    yield from _lock_calls()
    a, b = 0x1122334455667788, 0x99AABBCCDDEEFF00
    yield Call("shape_bswap", (hex(a), hex(b)), _swapped(a, 8) ^ _swapped(b, 4))
    yield Call("shape_nop1", ("41",), 42)
    yield Call("shape_nopn", ("41",), 43)
    yield Call("shape_pause", ("41",), 44)
    yield Call("shape_movabs", ("0xff",), 0xCCE9CCE8CC0F90CC ^ 0xFF)
    yield Call("shape_operand16", ("0x1fff0",), (0xFFF0 + 0x7001) & 0xFFFF ^ 0x1234)
    yield Call("shape_high_byte", ("0x7a1b2",), 0xB2A1 + 0xB200)
    yield Call("shape_shift", (hex(a), hex(b), "20"), _shifted(a, b, 20))
    for label, n, d in (("positive", 1000007, 13), ("negative", -1000007, 13)):
        yield Call("shape_idiv", (str(n), str(d)), _quotient(n, d), label=label)
    yield Call("shape_cpuid", ("41",), 45)


def red_zone_calls() -> Iterator[Call]:
    """The calls of code that uses a red zone."""
    yield Call("shape_red_zone", ("1000", "58"), 942)
