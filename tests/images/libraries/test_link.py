"""Names between an image and its libraries: who wins, what is copied, what indirect functions and
thread-local data come to.
"""

from __future__ import annotations

import pytest

from arch_x86.emu.fault import FaultKind
from arch_x86.emu.machine import MachineConfig
from arch_x86.images import load_elf
from arch_x86.isa.assemble import assemble
from engine.errors import InputError
from tests.images.elf_builder import (
    DATA_PAGE,
    FUNC,
    IFUNC,
    OBJECT,
    TEXT,
    TLS,
    WEAK,
    Dynamic,
    Object,
)

R64, COPY, GLOB_DAT, DTPMOD64, DTPOFF64, TPOFF64, TLSDESC, IRELATIVE = 1, 5, 6, 16, 17, 18, 36, 37
PLT32, PC32 = 4, 2
SLOT = DATA_PAGE  # where the callers below have their one GOT slot


def caller(name: str = "g", code: str = "jmp qword ptr [rip + {slot}]", **fields) -> Dynamic:
    """``f`` jumps to an undefined function through a slot."""
    d = Dynamic(text=assemble(code.format(slot=SLOT - TEXT - 6)), **fields)
    d.symbol("f", 1, TEXT, 16, FUNC)
    d.plt_rela(SLOT, d.symbol(name, kind=FUNC))
    return d


def returning(value: int, name: str = "g", kind: int = FUNC, bind: int = 1) -> Dynamic:
    d = Dynamic(text=assemble(f"mov eax, {value}; ret"))
    d.symbol(name, 1, TEXT, 6, kind, bind)
    return d


def indirect(value: int, name: str = "g") -> Dynamic:
    """An indirect function that returns ``value``: the resolver, then the function."""
    d = Dynamic(text=assemble(f"lea rax, [rip + 1]; ret; mov eax, {value}; ret"))
    d.symbol(name, 1, TEXT, 8, IFUNC)
    return d


class TestLookUp:
    def test_a_library_gives_what_the_image_lacks_and_the_first_one_wins(self, linked):
        assert linked(caller(), returning(7)).call() == 7
        assert linked(caller(), returning(8), returning(7)).call() == 8
        assert linked(caller(), Dynamic(), returning(7, bind=WEAK)).call() == 7

    def test_a_name_means_one_function_where_a_file_that_is_looked_into_earlier_has_it(self):
        libraries = [(f"lib{value}.so", returning(value).build()) for value in (8, 7)]
        assert load_elf(caller().build(), "main", libraries=libraries).homonyms("g") == ()
        twice = returning(5)
        twice.symbol("g", 1, TEXT + 16, 1, FUNC, 0)
        assert len(load_elf(twice.build(), "main").homonyms("g")) == 2

    def test_without_one_the_call_traps_by_name(self, linked):
        fault = linked(caller(), returning(7, "other")).call()
        assert (fault.kind, "g is not defined" in fault.explain) == (
            FaultKind.UNRESOLVED_FUNCTION,
            True,
        )

    def test_the_image_replaces_a_function_of_a_library(self, linked):
        library = caller("h")  # the library's f calls h, which it also defines
        library.symbol("h", 1, TEXT + 32, 1, FUNC)
        main = returning(5, "h")
        main.plt_rela(SLOT, main.symbol("f", kind=FUNC))
        assert linked(main, library).call(function="f") == 5

    def test_a_stub_wins_over_libraries_and_routines(self, linked):
        config = MachineConfig(stubs={"g": 3, "strlen": 4})
        assert linked(caller(), returning(7), stubs=("g",), config=config).call() == 3
        assert linked(caller("strlen"), stubs=("strlen",), config=config).call() == 4

    def test_a_weak_name_that_a_library_has_is_bound_and_stays_0_otherwise(self, linked):
        main = Dynamic(text=assemble(f"mov rax, qword ptr [rip + {SLOT - TEXT - 7}]; ret"))
        main.symbol("f", 1, TEXT, 8, FUNC)
        main.rela(SLOT, GLOB_DAT, main.symbol("strlen", bind=WEAK))
        assert linked(main).call() == 0
        r = linked(main, returning(7, "strlen"))
        assert r.call() == r.machine.image.by_name["strlen"].addr

    @pytest.mark.parametrize("name", ["malloc", "free", "__tls_get_addr"])
    def test_a_library_does_not_give_what_needs_a_system(self, linked, name):
        image = linked(caller(name), returning(7, name)).machine.image
        assert [
            s.name
            for s in image.symbols
            if s.addr == int.from_bytes(image.read(0x10000000 + SLOT, 8), "little")
        ] == [name]
        assert linked(caller(name), returning(7, name)).call(0x10001000) != 7

    def test_what_ends_a_program_is_a_fault_that_says_so(self, linked):
        fault = linked(caller("abort"), returning(7, "abort")).call()
        assert (fault.kind, fault.explain) == (FaultKind.ABORT, "abort: the code gives up")
        assert (
            linked(
                caller("abort"), stubs=("abort",), config=MachineConfig(stubs={"abort": 1})
            ).call()
            == 1
        )

    def test_text_of_a_library_belongs_to_the_image(self, linked):
        r = linked(caller(), Dynamic(text=assemble("nop; ud2")), indirect(1, "x"))
        assert len([s for s in r.machine.image.segments if s.executable]) == 3
        library = Dynamic(text=assemble("nop; ud2"))
        library.symbol("g", 1, TEXT, 3, FUNC)
        fault = linked(caller(), library).call()
        assert (fault.place, fault.kind) == ("g+0x1", FaultKind.INVALID_OPCODE)

    @pytest.mark.parametrize(
        "library", [b"\x7fELF", b"text", Object().build(), Dynamic(kind=2).build()]
    )
    def test_only_a_shared_object_is_a_library(self, library):
        with pytest.raises(InputError):
            load_elf(caller().build(), "main", libraries=[("lib", library)])


class TestInterpreter:
    def test_it_is_loaded_for_a_name_that_nobody_else_has(self, linked):
        asked: list[str] = []

        def read(path: str) -> bytes:
            asked.append(path)
            return returning(9).build()

        assert linked(caller(interp="/ld.so"), interpreter=read).call() == 9
        assert asked == ["/ld.so"]

    @pytest.mark.parametrize("content", [None, returning(9, "other").build()])
    def test_it_is_left_out_where_it_does_not_help(self, linked, content):
        r = linked(caller(interp="/ld.so"), interpreter=lambda _path: content)
        assert len([s for s in r.machine.image.segments if s.executable]) == 1

    def test_it_is_not_asked_for_without_need(self, linked):
        def read(path: str) -> bytes:
            raise AssertionError(path)

        assert linked(caller(interp="/ld.so"), returning(7), interpreter=read).call() == 7
        assert linked(caller("strlen", interp="/ld.so"), interpreter=read)


class TestCopies:
    def test_data_is_copied_and_the_library_uses_the_copy(self, linked):
        library = Dynamic(
            data=b"\x2a" + bytes(63),
            text=assemble(f"mov rax, qword ptr [rip + {DATA_PAGE + 8 - TEXT - 7}]; ret"),
        )
        number = library.symbol("value", 2, DATA_PAGE, 8, OBJECT)
        library.symbol("where", 1, TEXT, 8, FUNC)
        library.rela(DATA_PAGE + 8, GLOB_DAT, number)
        main = Dynamic(memsz=0x2000)
        main.rela(DATA_PAGE + 0x1800, COPY, main.symbol("value", 3, DATA_PAGE + 0x1800, 8, OBJECT))
        r = linked(main, library)
        copy = r.machine.image.by_name["value"].addr
        assert r.machine.ram.read_u64(copy) == 42
        assert r.call(function="where") == copy

    def test_without_the_library_it_is_refused_with_the_way_out(self):
        main = Dynamic()
        main.rela(DATA_PAGE, COPY, main.symbol("value", 2, DATA_PAGE, 8, OBJECT))
        with pytest.raises(InputError, match=r"R_X86_64_COPY against value at 0x1000.*--with LIB"):
            load_elf(main.build(), "main")

    def test_where_nothing_is_executed_it_may_be_missing(self):
        main = Dynamic()
        main.rela(DATA_PAGE, COPY, main.symbol("value", 2, DATA_PAGE, 8, OBJECT))
        assert load_elf(main.build(), "main", executes=False).by_name["value"].size == 8


class TestIndirectFunctions:
    def test_a_slot_gets_what_the_resolver_returns_wherever_it_is(self, linked):
        assert linked(caller(), indirect(11)).call() == 11
        own = indirect(12, "own")
        own.plt_rela(SLOT, 1)
        r = linked(own)
        assert r.machine.ram.read_u64(0x10000000 + SLOT) == 0x10000000 + TEXT + 8

    def test_its_name_leads_to_the_function_that_callers_get(self, linked):
        r = linked(caller(), indirect(11))
        found = r.machine.kallsyms.lookup_name("g")
        assert found.addr == r.machine.image.by_name["g"].addr + 8
        assert r.machine.kallsyms.describe(found.addr) == "g+0x0"

    def test_irelative_words_with_the_chosen_address(self, linked):
        d = indirect(13)
        d.rela(SLOT, IRELATIVE, 0, TEXT)
        assert linked(d).machine.ram.read_u64(0x10000000 + SLOT) == 0x10000000 + TEXT + 8

    def test_an_address_in_data_has_its_addend(self, linked):
        main = Dynamic()
        main.rela(SLOT, R64, main.symbol("g", kind=FUNC), 5)
        r = linked(main, indirect(1))
        assert (
            r.machine.ram.read_u64(0x10000000 + SLOT)
            == r.machine.kallsyms.lookup_name("g").addr + 5
        )

    def test_an_object_file_calls_one_of_a_library(self, linked):
        o = Object()
        text = o.text(b"\xe8\0\0\0\0\xc3")
        o.symbol("f", text, 0, 6, FUNC)
        o.rela(text, 1, PLT32, o.symbol("g"), -4)
        assert linked(o, indirect(14)).call() == 14

    def test_nothing_of_it_shows_when_the_machine_is_up(self, linked):
        r = linked(caller(), indirect(11), cpus=2)
        machine = r.machine
        assert (
            machine.clock,
            [cpu.retired for cpu in machine.cpus],
            machine.cpus[0].registers()[:4],
        ) == (0, [0, 0], (0, 0, 0, 0))
        assert not any(machine.ram.read(machine.tasks[0].stack_top - 4096, 4096))

    @pytest.mark.parametrize(
        ("code", "words"),
        [
            ("ud2", "invalid-opcode"),
            ("l: jmp l", "instruction-limit"),
            ("xor eax, eax; mov eax, [rax]", "unmapped-access"),
        ],
    )
    def test_a_resolver_that_dies_is_named(self, linked, code, words):
        bad = Dynamic(text=assemble(code))
        bad.symbol("g", 1, TEXT, 8, IFUNC)
        with pytest.raises(InputError, match=f"main: the resolver of g died at g\\+0x.*: {words}"):
            linked(caller(), bad)
        assert linked(Dynamic(), bad)  # nobody needs it, so its name stays with the resolver

    def test_a_resolver_that_asks_the_system_is_told_that_there_is_none(self, linked):
        library = Dynamic(
            text=assemble(
                "mov eax, 39; syscall; cmp eax, -38; jne l; lea rax, [rip + 3]; ret; l: ud2; "
                "mov eax, 15; ret"
            )
        )
        library.symbol("g", 1, TEXT, 32, IFUNC)
        r = linked(caller(), library)
        assert r.call() == 15
        main = Dynamic(text=assemble("syscall; ret"))
        main.symbol("f", 1, TEXT, 3, FUNC)
        # once the machine is up, there is still no system
        assert linked(main, library).call().kind is FaultKind.SYSTEM_CALL


class TestThreadLocalData:
    def test_each_cpu_has_its_own_and_the_image_comes_first(self, linked):
        main = Dynamic(data=(7).to_bytes(8, "little") + bytes(56), tls=(8, 24, 16))
        library = Dynamic(data=(9).to_bytes(8, "little") + bytes(56), tls=(8, 8, 8))
        library.symbol("other", 2, 0, 8, TLS)
        code = f"""
            mov rcx, qword ptr [rip + {SLOT + 16 - TEXT - 7}]
            mov rdx, qword ptr [rip + {SLOT + 24 - TEXT - 14}]
            add qword ptr fs:[rcx], rdi; mov rax, qword ptr fs:[rcx]; imul rax, rax, 100
            add rax, qword ptr fs:[rdx]; ret"""
        main.text = assemble(code)
        main.symbol("f", 1, TEXT, 64, FUNC)
        main.rela(SLOT + 16, TPOFF64, main.symbol("own", 2, 0, 8, TLS))
        main.rela(SLOT + 24, TPOFF64, main.symbol("other", kind=TLS))
        r = linked(main, library, cpus=2)
        assert r.call(1) == 809
        assert r.call(1) == 909
        assert r.call(1, cpu=1) == 809
        assert [r.machine.ram.read_u64(0x10000000 + SLOT + at) for at in (16, 24)] == [
            (1 << 64) - 32,
            (1 << 64) - 40,
        ]
        fs = r.machine.layout.fs_base(0)
        assert r.machine.ram.read_u64(fs) == fs

    def test_64_kib_of_it_do_and_a_canary_stays(self, linked):
        main = Dynamic(
            tls=(8, 65536, 64),
            text=assemble("mov rax, qword ptr fs:[rdi]; mov qword ptr fs:[rdi], 5; ret"),
        )
        main.symbol("f", 1, TEXT, 16, FUNC)
        r = linked(main, cpus=2)
        assert r.call(-65536, cpu=1) == 0
        assert r.call(-65536, cpu=1) == 5
        assert r.call(-65536, cpu=0) == 0
        assert r.call(0x28) not in (0, 5)

    def test_the_general_dynamic_form_calls_tls_get_addr(self, linked):
        main = Dynamic(
            text=assemble(
                f"lea rdi, [rip + {SLOT + 16 - TEXT - 7}]; jmp qword ptr [rip + {SLOT - TEXT - 13}]"
            )
        )
        main.symbol("f", 1, TEXT, 16, FUNC)
        main.plt_rela(SLOT, main.symbol("__tls_get_addr", kind=FUNC))
        var = main.symbol("var", kind=TLS)
        main.rela(SLOT + 16, DTPMOD64, var)
        main.rela(SLOT + 24, DTPOFF64, var)
        library = Dynamic(tls=(8, 32, 8))
        library.symbol("var", 2, 16, 8, TLS)
        r = linked(main, library)
        assert r.call() == r.machine.layout.fs_base(0) - 32 + 16

    def test_a_local_dynamic_module_is_the_block_itself(self, linked):
        main = Dynamic(
            tls=(8, 32, 8),
            text=assemble(
                f"lea rdi, [rip + {SLOT + 16 - TEXT - 7}]; jmp qword ptr [rip + {SLOT - TEXT - 13}]"
            ),
        )
        main.symbol("f", 1, TEXT, 16, FUNC)
        main.plt_rela(SLOT, main.symbol("__tls_get_addr", kind=FUNC))
        main.rela(SLOT + 16, DTPMOD64)
        r = linked(main)
        assert r.call() == r.machine.layout.fs_base(0) - 32

    def test_a_descriptor_keeps_all_registers_but_rax(self, linked):
        code = (
            f"mov ecx, 77; lea rax, [rip + {SLOT - TEXT - 12}]; call qword ptr [rax]; cmp ecx, 77;"
            " jne l; ret; l: ud2"
        )
        main = Dynamic(tls=(8, 32, 8), text=assemble(code))
        main.symbol("f", 1, TEXT, 32, FUNC)
        main.rela(SLOT, TLSDESC, main.symbol("var", 2, 8, 8, TLS), 4)
        assert linked(main).call() == (1 << 64) - 32 + 12

    def test_errno_is_one_variable_however_it_is_reached(self, linked):
        code = f"""
            call qword ptr [rip + {SLOT - TEXT - 6}]; xor ecx, ecx; sub rax, qword ptr fs:[rcx]
            sub rax, qword ptr [rip + {SLOT + 16 - TEXT - 19}]; ret"""
        main = Dynamic(text=assemble(code))
        main.symbol("f", 1, TEXT, 32, FUNC)
        main.plt_rela(SLOT, main.symbol("__errno_location", kind=FUNC))
        main.rela(SLOT + 16, TPOFF64, main.symbol("errno", kind=TLS))
        assert linked(main).call() == 0

    def test_a_name_that_nobody_defines_is_zeros_and_warned_of(self):
        main = Dynamic()
        main.rela(SLOT, TPOFF64, main.symbol("missing", kind=TLS))
        image = load_elf(main.build(), "main")
        assert image.warnings == ("unresolved thread-local data missing: zero-filled",)
        assert image.thread_image == bytes(64)


def test_each_thread_is_set_up_once_on_each_cpu(linked):
    library = Dynamic(tls=(0, 8, 8), text=assemble("mov rax, -8; add qword ptr fs:[rax], 3; ret"))
    library.symbol("__ctype_init", 1, TEXT, 16, FUNC)
    main = caller("other")
    r = linked(main, library, cpus=2)
    assert [r.machine.ram.read_u64(r.machine.layout.fs_base(cpu) - 8) for cpu in (0, 1)] == [3, 3]
