"""Executables and shared objects: load bias, dynamic relocations, stand-ins, and files without
section headers.
"""

from __future__ import annotations

import pytest

from arch_x86.images import load_elf, load_image
from engine.errors import InputError
from engine.image import Import
from tests.images.elf_builder import DATA_PAGE, ELF, FUNC, OBJECT, TEXT, TLS, WEAK, Dynamic

BASE = 0x10000000
R64, COPY, GLOB_DAT, RELATIVE, TPOFF64, IRELATIVE = 1, 5, 6, 8, 18, 37


def load(d: Dynamic, base: int | None = None):
    return load_elf(d.build(), "t.so", base)


def refused(d: Dynamic, base: int | None = None) -> str:
    with pytest.raises(InputError) as caught:
        load(d, base)
    assert str(caught.value).isprintable()
    return str(caught.value)


def word(image, offset: int, base: int = BASE) -> int:
    return int.from_bytes(image.read(base + DATA_PAGE + offset, 8), "little")


class TestRelocations:
    @pytest.mark.parametrize("base", [None, 0x7F0000000000, 0xFFFFFFFF80000000])
    def test_own_symbols_and_relative_words_move_with_the_base(self, base):
        d = Dynamic()
        f = d.symbol("f", 1, TEXT, 1, FUNC)
        d.rela(DATA_PAGE, RELATIVE, 0, 0x123)
        d.rela(DATA_PAGE + 8, GLOB_DAT, f)
        d.rela(DATA_PAGE + 16, R64, f, 4)
        d.plt_rela(DATA_PAGE + 24, f)
        image = load(d, base)
        at = BASE if base is None else base
        assert [word(image, n, at) for n in (0, 8, 16, 24)] == [
            at + 0x123,
            at + TEXT,
            at + TEXT + 4,
            at + TEXT,
        ]
        assert image.by_name["f"].addr == at + TEXT
        assert image.red_zone

    def test_relr_moves_the_words_that_address_and_bitmap_name(self):
        words = b"".join(n.to_bytes(8, "little") for n in range(16))
        d = Dynamic(data=words, relr=(DATA_PAGE + 8, 0b1011))  # word 1, then 2 and 4
        image = load(d)
        assert [word(image, 8 * n) for n in range(6)] == [0, BASE + 1, BASE + 2, 3, BASE + 4, 5]

    @pytest.mark.parametrize(
        ("kind", "name"),
        [
            (COPY, "R_X86_64_COPY"),
            (19, "R_X86_64_TLSGD"),
            (25, "R_X86_64_GOTOFF64"),
            (200, "type 200"),
        ],
    )
    def test_what_is_not_supported_is_named(self, kind, name):
        d = Dynamic()
        d.rela(DATA_PAGE, kind, d.symbol("sym", kind=OBJECT))
        assert f"{name} against sym at 0x1000" in refused(d)

    @pytest.mark.parametrize("kind", [FUNC, OBJECT])
    def test_a_thread_local_relocation_against_something_else_is_refused(self, kind):
        d = Dynamic()
        d.rela(DATA_PAGE, TPOFF64, d.symbol("sym", 1, TEXT, 1, kind))
        assert "thread-local" in refused(d)

    def test_a_thread_local_symbol_in_another_relocation_is_refused(self):
        d = Dynamic(tls=(8, 8, 8))
        d.rela(DATA_PAGE + 8, GLOB_DAT, d.symbol("sym", 2, 0, 8, TLS))
        assert "thread-local" in refused(d)

    @pytest.mark.parametrize("place", [DATA_PAGE - 8, 0x500000])
    def test_an_indirect_function_needs_a_writable_word(self, place):
        d = Dynamic()
        d.rela(place, IRELATIVE, 0, TEXT)
        assert "R_X86_64_IRELATIVE" in refused(d)

    def test_a_resolver_has_to_be_code(self):
        d = Dynamic()
        d.rela(DATA_PAGE, IRELATIVE, 0, DATA_PAGE)
        assert "R_X86_64_IRELATIVE" in refused(d)

    @pytest.mark.parametrize(
        ("tls", "words"),
        [
            ((8, 65537, 8), "64 KiB"),
            ((8, 8, 3), "power of two"),
            ((8, 8, 8192), "power of two"),
            ((16, 8, 8), "damaged"),
            ((0x100000, 0x100000, 8), "64 KiB"),
        ],
    )
    def test_thread_local_data_has_limits(self, tls, words):
        assert words in refused(Dynamic(tls=tls))

    @pytest.mark.parametrize("offset", [0x500000, (1 << 64) - 1, DATA_PAGE + 0x800])
    def test_a_relocation_outside_of_the_file_bytes_is_refused(self, offset):
        d = Dynamic(memsz=0x1000)
        d.rela(offset, RELATIVE)
        assert "damaged" in refused(d)

    def test_an_overflow_is_refused(self):
        d = Dynamic()
        d.rela(DATA_PAGE, 10, d.symbol("f", 1, TEXT, 1, FUNC))
        assert "R_X86_64_32 against f at 0x1000 overflows" in refused(d, 0x7F0000000000)


class TestUndefined:
    def test_functions_become_imports_weak_ones_zero_and_data_zeros(self):
        d = Dynamic()
        d.plt_rela(DATA_PAGE, d.symbol("puts", kind=FUNC))
        d.rela(DATA_PAGE + 8, GLOB_DAT, d.symbol("untyped"))
        d.rela(DATA_PAGE + 16, GLOB_DAT, d.symbol("weak", bind=WEAK))
        d.rela(DATA_PAGE + 24, GLOB_DAT, d.symbol("stdout", kind=OBJECT))
        d.plt_rela(DATA_PAGE + 32, d.symbol("weak_call", bind=WEAK))
        image = load(d)
        assert image.imports == (
            Import("puts", BASE + 0x3000),
            Import("untyped", BASE + 0x3010),
            Import("weak_call", BASE + 0x3020),
        )
        assert [word(image, n) for n in (0, 8, 16, 24, 32)] == [
            BASE + 0x3000,
            BASE + 0x3010,
            0,
            BASE + 0x2000,
            BASE + 0x3020,
        ]
        assert image.warnings == ("unresolved data stdout: zero-filled",)
        assert image.read(BASE + 0x2000, 8) == bytes(8)

    def test_imports_beyond_the_address_space_are_refused(self):
        d = Dynamic()
        d.plt_rela(DATA_PAGE, d.symbol("puts", kind=FUNC))
        assert "64-bit" in refused(d, (1 << 64) - 0x2000)


class TestSegments:
    def test_protection_and_entry(self):
        image = load(Dynamic(entry=TEXT))
        assert [(s.addr, s.executable, s.writable) for s in image.segments] == [
            (BASE, True, False),
            (BASE + 0x1000, False, True),
        ]
        assert image.entry == BASE + TEXT

    def test_writable_text_is_text_and_warned_of(self):
        image = load(Dynamic(text_flags=7))
        assert not image.segments[0].writable
        assert image.warnings == (
            f"the segment at {BASE:#x} is writable and executable: loaded as text, not writable",
        )

    @pytest.mark.parametrize("memsz", [1 << 31, 1 << 60, (1 << 64) - 1])
    def test_memory_beyond_the_limit_is_refused(self, memsz):
        assert "1 GiB" in refused(Dynamic(memsz=memsz))

    def test_less_memory_than_file_is_refused(self):
        assert "damaged" in refused(Dynamic(memsz=1))

    def test_an_executable_at_fixed_addresses_takes_no_base(self):
        d = Dynamic(kind=2)
        assert [s.addr for s in load(d).segments] == [0, 0x1000]
        assert "fixed addresses" in refused(d, BASE)

    def test_data_only_is_refused(self):
        assert "no code" in refused(Dynamic(text_flags=4))


class TestWorkloads:
    def test_dyn_so_points_to_its_own_functions(self):
        image = load_image(ELF / "dyn.so")
        names = {image.by_name[name].addr for name in ("dyn_step", "dyn_twice")}
        data = image.by_name["dyn_ops"]
        pointers = {
            int.from_bytes(image.read(data.addr + 8 * n, 8), "little")
            for n in range(data.size // 8)
        }
        assert pointers & names
        assert all(image.is_text(p) for p in pointers)

    @pytest.mark.parametrize("path", sorted(ELF.glob("*.so")), ids=lambda path: path.name)
    def test_all_load_whole(self, path):
        image = load_image(path)
        assert not image.warnings
        assert not image.imports
        assert image.functions
        assert min(s.addr for s in image.segments) == BASE

    @pytest.mark.parametrize("name", ["dyn.so", "shapes.so"])
    def test_without_section_headers_the_dynamic_symbols_remain(self, name):
        data = bytearray((ELF / name).read_bytes())
        whole = load_elf(bytes(data), name, None)
        data[40:48] = bytes(8)  # e_shoff
        data[58:64] = bytes(6)
        bare = load_elf(bytes(data), name, None)
        # the header itself is in memory
        assert [s.data[64:] for s in bare.segments] == [s.data[64:] for s in whole.segments]
        assert {s.name for s in bare.functions} <= {s.name for s in whole.functions}
        assert len(bare.functions) > 1

    def test_an_entry_of_the_linkage_table_has_the_name_of_the_function_that_it_leads_to(self):
        """``endbr64; jmp [rip + disp32]``, through the word that the linker has bound to that
        function.
        """
        image = load_image(ELF / "dyn.so")
        entry = image.by_name["dyn_step@plt"]
        endbr, jump = image.read(entry.addr, 4), image.read(entry.addr + 4, 6)
        word = entry.addr + 10 + int.from_bytes(jump[2:], "little", signed=True)
        assert (endbr, jump[:2], entry.size) == (b"\xf3\x0f\x1e\xfa", b"\xff\x25", 16)
        assert int.from_bytes(image.read(word, 8), "little") == image.by_name["dyn_step"].addr
        assert [symbol.name for symbol in image.functions if symbol.name.endswith("@plt")] == [
            "dyn_step@plt"
        ]

    def test_a_static_executable_keeps_its_addresses(self):
        image = load_image(ELF / "libmix")
        assert image.entry == image.by_name["_start"].addr
        assert "_end" not in image.by_name
        assert image.by_name["sha256"].size > 0
