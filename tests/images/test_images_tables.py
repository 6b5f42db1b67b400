"""The kernel's tables in a module: each format of Linux 6.1, and what happens to tables that make
no sense.
"""

from __future__ import annotations

import pytest

from arch_x86.images import load_elf
from engine.image import ExceptionEntry, Range, Reserved, ReservedKind
from tests.images.elf_builder import FUNC, LOCAL, SECTION, A, Object, W

BASE = 0x10000000
R64, PC32, PC64 = 1, 2, 24
# 0: nop5 (mcount) 5: jmp short 7: nop2 9: nop5 (long) 14: jmp near 19: ud2 21: call 26: ret
TEXT = (
    b"\x0f\x1f\x44\x00\x00"
    + b"\xeb\x00"
    + b"\x66\x90"
    + b"\x0f\x1f\x44\x00\x00"
    + b"\xe9\0\0\0\0"
    + b"\x0f\x0b"
    + b"\xe8\0\0\0\0"
    + b"\xc3"
)


class Module(Object):
    """An object with the text above, and tables that point into it."""

    def __init__(self) -> None:
        super().__init__()
        self.code = self.text(TEXT)
        self.text_symbol = self.symbol("", self.code, kind=SECTION, bind=LOCAL)
        self.symbol("f", self.code, 0, len(TEXT), FUNC)

    def table(
        self,
        name: str,
        size: int,
        *fields: tuple[int, int, int],
        entsize: int = 0,
        data: bytes = b"",
    ) -> None:
        """``fields``: offset in the table, relocation type, offset in text."""
        section = self.section(name, data or bytes(size), A | W, entsize=entsize)
        for at, kind, target in fields:
            self.rela(section, at, kind, self.text_symbol, target)

    def load(self):
        return load_elf(self.build(), "m.ko", None)


def reserved(image) -> list[tuple[int, int, ReservedKind]]:
    return [(r.addr - BASE, r.size, r.kind) for r in image.reserved]


def test_exception_table():
    m = Module()
    m.table("__ex_table", 24, (0, PC32, 9), (4, PC32, 26), (12, PC32, 5), (16, PC32, 7))
    assert m.load().exception_table == (
        ExceptionEntry(BASE + 5, BASE + 7),
        ExceptionEntry(BASE + 9, BASE + 26),
    )


def test_jump_labels_have_the_size_of_their_code():
    m = Module()
    fields = [
        field
        for n, at in enumerate((5, 7, 9, 14))
        for field in ((16 * n, PC32, at), (16 * n + 4, PC32, 26), (16 * n + 8, PC64, 0))
    ]
    m.table("__jump_table", 64, *fields)
    kind = ReservedKind.JUMP_LABEL
    assert reserved(m.load()) == [(5, 2, kind), (7, 2, kind), (9, 5, kind), (14, 5, kind)]


def test_static_calls_and_mcount_sites():
    m = Module()
    m.table(".static_call_sites", 8, (0, PC32, 21), (4, PC32, 0))
    m.table("__mcount_loc", 8, (0, R64, 0))
    assert reserved(m.load()) == [
        (0, 5, ReservedKind.FTRACE_SITE),
        (21, 5, ReservedKind.STATIC_CALL),
    ]


@pytest.mark.parametrize(("size", "entsize"), [(12, 0), (12, 12), (6, 0), (6, 6)])
def test_bugs_with_and_without_file_and_line(size, entsize):
    m = Module()
    m.table("__bug_table", 2 * size, (0, PC32, 19), (size, PC32, 19), entsize=entsize)
    assert reserved(m.load()) == [(19, 2, ReservedKind.BUG)]


@pytest.mark.parametrize("size", [12, 14])
def test_alternatives_with_16_and_32_bit_features(size):
    m = Module()
    entry = bytes(size - 2) + b"\x05\x02"
    m.table(".altinstructions", 0, (0, PC32, 9), (4, PC32, 7), data=entry)
    assert reserved(m.load()) == [(9, 5, ReservedKind.ALTERNATIVES)]


def test_the_blacklist_is_of_whole_functions():
    m = Module()
    m.table("_kprobe_blacklist", 8, (0, R64, 0))
    assert m.load().blacklist == (Range(BASE, len(TEXT)),)


@pytest.mark.parametrize(
    ("vermagic", "preemption"),
    [
        ("6.1.0 SMP mod_unload ", False),
        ("6.1.0 SMP preempt mod_unload ", True),
        ("6.1.0 SMP preempt_rt ", True),
    ],
)
def test_preemption_is_what_the_module_was_built_for(vermagic, preemption):
    m = Module()
    m.section(".modinfo", b"license=GPL\0vermagic=" + vermagic.encode() + b"\0", A)
    assert m.load().preemption is preemption


@pytest.mark.parametrize(
    "name",
    [
        "__ex_table",
        "__jump_table",
        ".static_call_sites",
        "__mcount_loc",
        "__bug_table",
        ".altinstructions",
        "_kprobe_blacklist",
    ],
)
@pytest.mark.parametrize("data", [b"\xaa" * 7, b"\x99" * 168], ids=["odd size", "no text"])
def test_a_table_that_makes_no_sense_is_a_warning(name, data):
    m = Module()
    m.table(name, 0, data=data)
    image = m.load()
    assert len(image.warnings) == 1
    assert image.warnings[0].startswith(f"{name}: ")
    assert (image.exception_table, image.reserved, image.blacklist) == ((), (), ())


def test_one_bad_entry_does_not_spoil_the_others():
    m = Module()
    m.table("__mcount_loc", 24, (0, R64, 0), (8, R64, 9))
    image = m.load()
    assert image.reserved == (
        Reserved(BASE, 5, ReservedKind.FTRACE_SITE),
        Reserved(BASE + 9, 5, ReservedKind.FTRACE_SITE),
    )
    assert image.warnings == ("__mcount_loc: 1 entries do not point to what they should; ignored",)
