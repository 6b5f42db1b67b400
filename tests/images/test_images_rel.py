"""Relocatable objects: where sections go, what relocations store, and what stands in for undefined
symbols.
"""

from __future__ import annotations

import pytest

from arch_x86.images import load_elf, load_image
from engine.errors import InputError
from engine.image import DeferredRelocation, Import, Range
from tests.images.elf_builder import (
    ABS,
    COMMON,
    ELF,
    FUNC,
    IFUNC,
    LOCAL,
    OBJECT,
    REL,
    SECTION,
    THREAD,
    TLS,
    WEAK,
    A,
    Object,
    Part,
    W,
    X,
)

BASE = 0x10000000
CALL, JUMP = b"\xe8\0\0\0\0", b"\xe9\0\0\0\0"
LEA = b"\x48\x8d\x05\0\0\0\0"  # lea rax, [rip+x]
CALL_GOT, MOV_GOT = b"\xff\x15\0\0\0\0", b"\x48\x8b\x05\0\0\0\0"
R64, PC32, PLT32, R32, R32S, GOTPCREL, TPOFF32 = 1, 2, 4, 10, 11, 9, 23


def load(obj: Object, base: int | None = None):
    return load_elf(obj.build(), "t.o", base)


def refused(obj: Object, base: int | None = None) -> str:
    with pytest.raises(InputError) as caught:
        load(obj, base)
    message = str(caught.value)
    assert message.startswith("t.o: ")
    assert message.isprintable()
    return message


def target(image, addr: int) -> int:
    """Where the rel32 at ``addr`` points."""
    return addr + 4 + int.from_bytes(image.read(addr, 4), "little", signed=True)


class TestLayout:
    def test_groups_start_on_fresh_pages_and_bytes_come_before_bss(self):
        o = Object()
        o.section(".bss", flags=A | W, size=0x30, align=32)
        o.text(b"\xc3")
        o.section(".data", b"data", A | W, align=8)
        o.section(".rodata", b"ro", A)
        o.text(b"\x90\xc3", ".text.2", align=16)
        o.section(".comment", b"not loaded", 0)
        image = load(o)
        shape = [(s.addr, bytes(s.data), s.size, s.writable, s.executable) for s in image.segments]
        assert shape == [
            (BASE, b"\xc3" + b"\xcc" * 15 + b"\x90\xc3", 18, False, True),
            (BASE + 0x1000, b"ro", 2, False, False),
            (BASE + 0x2000, b"data", 0x20 + 0x30, True, False),
        ]
        assert not image.red_zone

    def test_common_symbols_get_room_at_their_alignment(self):
        o = Object()
        o.text(b"\xc3")
        o.symbol("a", COMMON, value=4, size=4, kind=OBJECT)
        o.symbol("b", COMMON, value=64, size=100, kind=OBJECT)
        o.symbol("nothing", COMMON, value=1, size=0, kind=OBJECT)
        image = load(o)
        assert image.by_name["a"].addr == BASE + 0x1000
        assert image.by_name["b"].addr == BASE + 0x1040
        assert "nothing" not in image.by_name
        assert image.segments[1].size == 0x40 + 100
        assert image.segments[1].writable

    def test_a_writable_text_section_is_text_and_warned_of(self):
        o = Object()
        o.section(".text", b"\xc3", A | W | X)
        image = load(o)
        assert image.segments[0].executable
        assert not image.segments[0].writable
        assert image.warnings == (
            "section .text is writable and executable: loaded as text, not writable",
        )

    @pytest.mark.parametrize("base", [0x10000001, -4096, 1 << 64, 1 << 48])
    def test_an_impossible_base_is_refused(self, base):
        o = Object()
        o.text(b"\xc3")
        refused(o, base)

    @pytest.mark.parametrize("size", [1 << 30, 1 << 60, (1 << 64) - 1])
    def test_memory_beyond_the_limit_is_refused(self, size):
        o = Object()
        o.text(b"\xc3")
        o.section(".bss", flags=A | W, size=size)
        assert "1 GiB" in refused(o)

    @pytest.mark.parametrize("align", [3, 1 << 31, 1 << 63])
    def test_a_senseless_alignment_is_refused(self, align):
        o = Object()
        o.text(b"\xc3", align=align)
        assert "power of two" in refused(o)

    def test_no_code_is_refused(self):
        o = Object()
        o.section(".data", b"x", A | W)
        assert "no code" in refused(o)


class TestRelocations:
    def test_references_within_the_object(self):
        o = Object()
        text = o.text(CALL + LEA + b"\xc3")
        data = o.section(".data", bytes(24), A | W)
        f = o.symbol("f", text, 12, 1, FUNC)
        var = o.symbol("", data, kind=SECTION, bind=LOCAL)
        o.rela(text, 1, PLT32, f, -4)
        o.rela(text, 8, PC32, var, 8 - 4)
        o.rela(data, 0, R64, f)
        o.rela(data, 8, R32, var, 16)
        o.rela(data, 12, R32S, f, 1)
        image = load(o)
        assert target(image, BASE + 1) == BASE + 12
        assert target(image, BASE + 8) == BASE + 0x1000 + 8
        assert (
            image.read(BASE + 0x1000, 16)
            == (BASE + 12).to_bytes(8, "little") + b"\x10\x10\0\x10" + b"\x0d\0\0\x10"
        )
        assert not image.imports

    def test_the_got_is_shared_by_all_that_use_a_symbol(self):
        o = Object()
        text = o.text(MOV_GOT + CALL_GOT + b"\xc3")
        f = o.symbol("f", text, 13, 1, FUNC)
        o.rela(text, 3, GOTPCREL, f, -4)
        o.rela(text, 9, 41, f, -4)
        image = load(o)
        slot = target(image, BASE + 3)
        assert slot == target(image, BASE + 9)
        assert image.read(slot, 8) == (BASE + 13).to_bytes(8, "little")
        assert not image.segment_at(slot).writable
        assert not image.segment_at(slot).executable

    def test_absolute_symbols_do_not_move(self):
        o = Object()
        text = o.text(bytes(8))
        o.rela(text, 0, R64, o.symbol("abs", ABS, 0x1234), 1)
        assert load(o).read(BASE, 8) == (0x1235).to_bytes(8, "little")

    def test_an_overflow_names_relocation_symbol_and_place(self):
        o = Object()
        text = o.text(bytes(16))
        o.rela(text, 3, R32, o.symbol("far", text), 0)
        message = refused(o, 0xFFFFFFFF81000000)
        assert "R_X86_64_32 against far at .text+0x3 overflows" in message

    @pytest.mark.parametrize(
        ("kind", "name"), [(16, "R_X86_64_DTPMOD64"), (19, "R_X86_64_TLSGD"), (200, "type 200")]
    )
    def test_an_unsupported_type_is_named(self, kind, name):
        o = Object()
        text = o.text(bytes(16))
        o.rela(text, 3, kind, o.symbol("tls", kind=TLS), 0)
        message = refused(o)
        assert name in message
        assert "tls at .text+0x3" in message

    def test_a_thread_local_relocation_against_something_else_is_refused(self):
        o = Object()
        text = o.text(bytes(16))
        o.rela(text, 3, TPOFF32, o.symbol("f", text, 0, 1, FUNC), 0)
        assert "thread-local" in refused(o)

    def test_thread_local_sections_lie_under_the_thread_pointer(self):
        o = Object()
        text = o.text(bytes(32))
        first = o.section(".tdata", b"\1\2\3\4\5\6\7\10", A | W | THREAD, align=8)
        second = o.section(".tbss", b"", A | W | THREAD, size=24, align=16)
        o.rela(text, 0, TPOFF32, o.symbol("x", first, 4, 4, TLS), 0)
        o.rela(text, 4, TPOFF32, o.symbol("", second, kind=SECTION, bind=LOCAL), 8)
        image = load(o)
        offsets = [int.from_bytes(image.read(BASE + at, 4), "little", signed=True) for at in (0, 4)]
        assert image.thread_image == b"\1\2\3\4\5\6\7\10" + bytes(40)
        assert offsets == [-44, -24]

    def test_an_indirect_function_is_called_through_a_jump_of_its_own(self):
        o = Object()
        text = o.text(CALL + b"\xc3")
        o.rela(text, 1, PLT32, o.symbol("ifn", text, 5, 1, IFUNC), -4)
        image = load(o)
        jump = target(image, BASE + 1)
        slot = target(image, jump + 2)
        assert image.read(jump, 2) == b"\xff\x25"
        assert image.segment_at(slot).writable
        assert image.deferred == (DeferredRelocation(slot, BASE + 5, 0, "ifn"),)
        assert image.by_name["ifn"].indirect

    @pytest.mark.parametrize(("offset", "symbol"), [(13, 0), (1 << 63, 0), (0, 7), (0, 0xFFFFFFFF)])
    def test_a_relocation_outside_of_its_section_or_symbol_table_is_refused(self, offset, symbol):
        o = Object()
        o.rela(o.text(bytes(16)), offset, PC32, symbol)
        assert "damaged" in refused(o)

    def test_a_symbol_in_a_section_that_is_not_loaded_is_refused(self):
        o = Object()
        text = o.text(bytes(16))
        o.rela(text, 0, R64, o.symbol("dbg", o.section(".debug_x", b"x", 0)))
        assert "not loaded" in refused(o)

    def test_relocations_of_debugging_information_are_skipped(self):
        o = Object()
        o.text(b"\xc3")
        o.rela(o.section(".debug_x", bytes(8), 0), 0, 200, 0)
        assert len(load(o).segments) == 1

    def test_rel_without_addends_is_refused(self):
        o = Object(rela_type=REL)
        o.rela(o.text(bytes(16)), 0, R64, 0)
        assert "REL" in refused(o)


class TestUndefined:
    def test_called_functions_become_imports_behind_the_image(self):
        o = Object()
        text = o.text(CALL + JUMP + b"\x0f\x85\0\0\0\0" + CALL)
        f, g, h = (o.symbol(name) for name in "fgh")
        for offset, symbol in ((1, f), (6, g), (12, h), (17, f)):
            o.rela(text, offset, PC32, symbol, -4)
        image = load(o)
        assert image.imports == (
            Import("f", BASE + 0x1000),
            Import("g", BASE + 0x1010),
            Import("h", BASE + 0x1020),
        )
        assert [target(image, BASE + at) for at in (1, 6, 12, 17)] == [
            BASE + 0x1000,
            BASE + 0x1010,
            BASE + 0x1020,
            BASE + 0x1000,
        ]
        assert image.segment_at(BASE + 0x1000) is None

    def test_data_is_a_page_of_zeros_and_warned_of(self):
        o = Object()
        text = o.text(LEA)
        o.rela(text, 3, PC32, o.symbol("counter"), -4)
        image = load(o)
        addr = target(image, BASE + 3)
        assert image.warnings == ("unresolved data counter: zero-filled",)
        assert image.segment_at(addr).writable
        assert image.read(addr, 4096) == bytes(4096)
        assert image.by_name["counter"].function is False
        assert not image.imports

    @pytest.mark.parametrize(("kind", "imports"), [(0, 1), (FUNC, 1), (OBJECT, 0)])
    def test_a_stored_address_is_a_function_unless_the_symbol_says_otherwise(self, kind, imports):
        o = Object()
        o.text(b"\xc3")
        o.rela(o.section(".data", bytes(8), A | W), 0, R64, o.symbol("x", kind=kind))
        assert len(load(o).imports) == imports

    def test_a_weak_symbol_is_zero_as_data_and_an_import_when_called(self):
        o = Object()
        text = o.text(CALL + LEA + MOV_GOT)
        weak = o.symbol("weak", bind=WEAK)
        data = o.section(".data", b"\xff" * 8, A | W)
        o.rela(text, 1, PLT32, weak, -4)
        o.rela(text, 8, PC32, weak, -4)
        o.rela(text, 15, GOTPCREL, weak, -4)
        o.rela(data, 0, R64, weak)
        image = load(o)
        assert [i.name for i in image.imports] == ["weak"]
        assert target(image, BASE + 1) == image.imports[0].addr
        assert target(image, BASE + 8) == 0
        assert image.read(target(image, BASE + 15), 8) == bytes(8)
        assert image.read(BASE + 0x1000, 8) == bytes(8)

    def test_a_call_through_the_got_is_a_function_despite_a_data_use(self):
        o = Object()
        text = o.text(CALL_GOT + LEA)
        symbol = o.symbol("f")
        o.rela(text, 2, 41, symbol, -4)
        o.rela(text, 9, PC32, symbol, -4)
        assert [i.name for i in load(o).imports] == ["f"]


class TestSymbols:
    def test_functions_labels_and_data(self):
        o = Object()
        text = o.text(bytes(64))
        data = o.section(".data", bytes(16), A | W)
        o.symbol("static", text, 0, 8, FUNC, LOCAL)
        o.symbol(".Llabel", text, 8, bind=LOCAL)
        o.symbol("entry", text, 16)
        o.symbol("versioned@@V1", text, 24, 8, FUNC)
        o.symbol("indirect", text, 32, 8, IFUNC)
        o.symbol("object", data, 0, 16, OBJECT)
        o.symbol("edata", data, 16)
        o.symbol("toolong", text, 48, 1000, FUNC)
        image = load(o)
        assert {(s.name, s.addr - BASE, s.size, s.function) for s in image.symbols} == {
            ("static", 0, 8, True),
            ("entry", 16, 0, True),
            ("versioned", 24, 8, True),
            ("indirect", 32, 8, True),
            ("object", 0x1000, 16, False),
            ("toolong", 48, 16, True),
        }
        assert len(image.warnings) == 1

    def test_a_name_finds_the_global_function_before_a_local_one(self):
        o = Object()
        text = o.text(bytes(16))
        o.symbol("f", text, 0, 1, FUNC, LOCAL)
        o.symbol("f", text, 8, 1, FUNC)
        assert load(o).by_name["f"].addr == BASE + 8

    def test_a_name_finds_the_current_version_before_an_old_one(self):
        o = Object()
        text = o.text(bytes(16))
        o.symbol("f", text, 0, 1, FUNC)
        o.symbol("f", text, 8, 1, FUNC)
        versions = b"\0\0" + b"\x02\x80" + b"\x03\x00"  # the first f is marked as hidden
        o.parts.append(
            Part(".gnu.version", 0x6FFFFFFF, 0, versions, len(versions), link=len(o.parts) + 2)
        )
        image = load(o)
        assert image.by_name["f"].addr == BASE + 8
        assert len(image.symbols) == 2

    def test_names_that_do_not_print_are_escaped(self):
        o = Object()
        o.symbol("bad\nname", o.text(b"\xc3"), 0, 1, FUNC)
        assert load(o).symbols[0].name == "bad\\nname"


@pytest.mark.parametrize("path", sorted(ELF.glob("*.o")), ids=lambda path: path.name)
@pytest.mark.parametrize("base", [None, 0xFFFFFFFF81000000])
def test_workloads_load_whole(path, base):
    image = load_image(path, text_base=base)
    assert not image.warnings
    assert not image.imports
    assert image.functions
    assert all(image.is_text(f.addr) for f in image.functions)


def test_blacklisted_sections_are_ranges():
    o = Object()
    o.text(b"\x90" * 7, ".noinstr.text")
    assert load(o).blacklist == (Range(BASE, 7),)
