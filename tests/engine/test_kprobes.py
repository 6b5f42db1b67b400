"""Laws of the kprobes core, on real code: text bytes, flags, lists, return codes."""

from __future__ import annotations

import errno

import pytest

from arch_x86.emu.fault import FaultKind, GuestFaultError
from engine.core.optimizer import OPTIMIZE_DELAY
from engine.errors import KprobeError
from engine.image import ExceptionEntry
from engine.kprobe import AggrKprobe, Kprobe, KprobeFlag, Method, Queue
from tests.conftest import BASE, asm_image

pytestmark = pytest.mark.smoke

# f+0 has 5 bytes, f+5 and f+8 have 3 bytes each, f+11 has 4. So f+0 alone fits a jump, and f+5
# needs two instructions.
CODE = "mov eax, 1; add rax, rdi; xor rdx, rdx; lea rax, [rax + 7]; ret"
JMP, INT3 = 0xE9, 0xCC


def counting(**where) -> tuple[Kprobe, list[int]]:
    """A probe, and the list that gets ``ip`` of each of its hits."""
    hits: list[int] = []
    return Kprobe(pre_handler=lambda _p, regs: hits.append(regs.ip), **where), hits


def at(bench, offset: int = 0, size: int = 1) -> bytes:
    return bench.machine.text.read(BASE + offset, size)


class TestRegistration:
    def test_a_registered_probe_is_a_breakpoint_until_five_jiffies_have_passed(self, workbench):
        bench = workbench(CODE)
        p, hits = counting(symbol_name="f")
        bench.kprobes.register_kprobe(p)
        assert at(bench)[0] == INT3
        bench.plane.sleep(OPTIMIZE_DELAY - 1)
        assert at(bench)[0] == INT3
        bench.plane.sleep(1)
        assert at(bench)[0] == JMP
        assert bench.call("f", 5) == 13
        assert hits == [BASE + 1]

    def test_unregistering_restores_every_byte_and_leaves_nothing_behind(self, workbench):
        bench = workbench(CODE)
        original = at(bench, 0, 64)
        p, _ = counting(symbol_name="f")
        for wait in (False, True):
            p.addr, p.flags = None, KprobeFlag(0)
            bench.kprobes.register_kprobe(p)
            if wait:
                bench.kprobes.wait_for_kprobe_optimizer()
            assert at(bench)[0] == (JMP if wait else INT3)
            assert bench.kprobes.unregister_kprobe(p)
            bench.kprobes.wait_for_kprobe_optimizer()
            assert at(bench, 0, 64) == original
            assert not bench.kprobes.kprobe_table
            assert (bench.arch.slots.used, bench.arch.detours.used) == (0, 0)

    def test_a_probe_taken_away_before_the_delay_is_never_a_jump(self, workbench):
        bench = workbench(CODE)
        p, _ = counting(symbol_name="f")
        bench.kprobes.register_kprobe(p)
        bench.kprobes.unregister_kprobe(p)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert bench.plane.stats.stop_machine == 0

    @pytest.mark.parametrize(
        ("where", "code"),
        [
            ({"symbol_name": "f", "offset": 1}, errno.EILSEQ),
            ({"symbol_name": "nosuch"}, errno.EINVAL),
            ({"symbol_name": "f", "addr": BASE}, errno.EINVAL),
            ({}, errno.EINVAL),
            ({"addr": 0x1234}, errno.EINVAL),
        ],
    )
    def test_a_refused_probe_carries_the_errno_and_changes_nothing(self, workbench, where, code):
        bench = workbench(CODE)
        p, _ = counting(**where)
        with pytest.raises(KprobeError) as refused:
            bench.kprobes.register_kprobe(p)
        assert refused.value.errno == code
        assert not bench.kprobes.kprobe_table
        assert at(bench, 0, 16) == bench.image.read(BASE, 16)

    def test_registering_a_live_probe_again_is_einval(self, workbench):
        bench = workbench(CODE)
        p, _ = counting(symbol_name="f")
        bench.kprobes.register_kprobe(p)
        with pytest.raises(KprobeError) as refused:
            bench.kprobes.register_kprobe(p)
        assert refused.value.errno == errno.EINVAL

    def test_unregistering_twice_or_what_never_was_changes_nothing(self, workbench):
        bench = workbench(CODE)
        p, _ = counting(symbol_name="f")
        assert not bench.kprobes.unregister_kprobe(p)
        bench.kprobes.register_kprobe(p)
        assert bench.kprobes.unregister_kprobe(p)
        assert not bench.kprobes.unregister_kprobe(p)

    def test_register_kprobes_undoes_all_when_one_fails(self, workbench):
        bench = workbench(CODE)
        good, bad = Kprobe(symbol_name="f"), Kprobe(symbol_name="f", offset=1)
        with pytest.raises(KprobeError):
            bench.kprobes.register_kprobes([good, bad])
        bench.kprobes.wait_for_kprobe_optimizer()
        assert not bench.kprobes.kprobe_table
        assert at(bench, 0, 16) == bench.image.read(BASE, 16)

    def test_an_unused_probe_about_to_be_reclaimed_answers_ebusy(self, workbench):
        bench = workbench(CODE)
        p, _ = counting(symbol_name="f")
        bench.kprobes.register_kprobe(p)
        bench.kprobes.wait_for_kprobe_optimizer()
        bench.kprobes.unregister_kprobe(p)
        with pytest.raises(KprobeError) as refused:
            bench.kprobes.register_kprobe(Kprobe(symbol_name="f"))
        assert refused.value.errno == errno.EBUSY
        bench.kprobes.wait_for_kprobe_optimizer()
        bench.kprobes.register_kprobe(Kprobe(symbol_name="f"))


class TestMethods:
    @pytest.mark.parametrize("offset", [0, 5, 8, 11])
    def test_every_method_runs_the_handler_once_a_pass_and_keeps_the_result(
        self, workbench, offset
    ):
        bench = workbench(CODE)
        for optimize, post in ((False, True), (False, False), (True, False)):
            bench.kprobes.kprobes_allow_optimization = optimize
            posts: list[int] = []
            p, hits = counting(symbol_name="f", offset=offset)
            p.post_handler = (
                (lambda _p, regs, _f, posts=posts: posts.append(regs.ip)) if post else None
            )
            bench.kprobes.register_kprobe(p)
            bench.kprobes.wait_for_kprobe_optimizer()
            for _ in range(3):
                assert bench.call("f", 5) == 13
            assert hits == [BASE + offset + 1] * 3
            assert len(posts) == (3 if post else 0)
            bench.kprobes.unregister_kprobe(p)
            bench.kprobes.wait_for_kprobe_optimizer()

    def test_a_handler_may_change_registers_on_every_method(self, workbench):
        bench = workbench(CODE)
        for optimize, post in ((False, True), (False, False), (True, False)):
            bench.kprobes.kprobes_allow_optimization = optimize

            def set_argument(_p, regs):
                regs.di = 100

            p = Kprobe(
                symbol_name="f",
                pre_handler=set_argument,
                post_handler=(lambda *_: None) if post else None,
            )
            bench.kprobes.register_kprobe(p)
            bench.kprobes.wait_for_kprobe_optimizer()
            assert bench.call("f", 5) == 108
            bench.kprobes.unregister_kprobe(p)
            bench.kprobes.wait_for_kprobe_optimizer()

    def test_a_changed_ip_with_return_1_is_honoured_behind_int3_not_behind_a_jump(self, workbench):
        bench = workbench(CODE, "mov eax, 99; ret")

        def elsewhere(_p, regs):
            regs.ip = BASE + 256
            return 1

        for optimize, result in ((False, 99), (True, 13)):
            bench.kprobes.kprobes_allow_optimization = optimize
            p = Kprobe(symbol_name="f", pre_handler=elsewhere)
            bench.kprobes.register_kprobe(p)
            bench.kprobes.wait_for_kprobe_optimizer()
            assert bench.call("f", 5) == result
            bench.kprobes.unregister_kprobe(p)
            bench.kprobes.wait_for_kprobe_optimizer()

    def test_handlers_see_the_stack_pointer_of_the_site_on_every_method(self, workbench):
        for red_zone in (False, True):
            bench = workbench("mov rax, rsp; nop; nop; ret", red_zone=red_zone)
            for optimize in (False, True):
                bench.kprobes.kprobes_allow_optimization = optimize
                seen: list[int] = []
                p = Kprobe(
                    symbol_name="f", pre_handler=lambda _p, regs, seen=seen: seen.append(regs.sp)
                )
                bench.kprobes.register_kprobe(p)
                bench.kprobes.wait_for_kprobe_optimizer()
                assert bench.method(p) is (Method.OPTIMIZED if optimize else Method.BOOSTED)
                assert seen == [bench.call("f")], (red_zone, optimize)
                bench.kprobes.unregister_kprobe(p)
                bench.kprobes.wait_for_kprobe_optimizer()

    @pytest.mark.parametrize(
        ("text", "args", "result"),
        [
            ("call g2; add rax, 1; ret; g2: mov rax, [rsp]; sub rax, rdi; ret", (BASE,), 5 + 1),
            ("pushfq; pop rax; and rax, 0x300; ret", (), 0x200),
            ("cli; pushfq; pop rax; and rax, 0x300; ret", (), 0),
            ("sti; pushfq; pop rax; and rax, 0x300; ret", (), 0x200),
            ("push 0x202; popfq; pushfq; pop rax; and rax, 0x300; ret", (), 0x200),
            ("lea rax, [rip + 2]; jmp rax; ret", (), BASE + 9),
            ("jmp l; int3; l: mov eax, 3; ret", (), 3),
        ],
    )  # fmt: skip
    def test_a_single_step_leaves_no_trace_of_the_copy(self, workbench, text, args, result):
        image = asm_image(text)
        plain = workbench(image=image).call("f", *args)
        assert plain == result
        bench = workbench(image=image)
        offset = 0
        while offset < image.functions[0].size:
            p = Kprobe(
                symbol_name="f",
                offset=offset,
                pre_handler=lambda _p, _r: 0,
                post_handler=lambda *_: None,
            )
            try:
                bench.kprobes.register_kprobe(p)
            except KprobeError:
                offset += 1
                continue
            assert bench.call("f", *args) == result, hex(offset)
            bench.kprobes.unregister_kprobe(p)
            bench.kprobes.wait_for_kprobe_optimizer()
            offset += 1

    def test_the_copy_of_an_instruction_that_the_emulator_lacks_traps_like_the_original(
        self, workbench
    ):
        bench = workbench("vpaddb xmm0, xmm1, xmm2; nop; nop; nop; nop; ret")
        for optimize, post in ((False, True), (False, False), (True, False)):
            bench.kprobes.kprobes_allow_optimization = optimize
            p = Kprobe(symbol_name="f", post_handler=(lambda *_: None) if post else None)
            bench.kprobes.register_kprobe(p)
            bench.kprobes.wait_for_kprobe_optimizer()
            with pytest.raises(
                GuestFaultError, match=r"f\+0x0: unsupported-opcode: `vpaddb"
            ) as raised:
                bench.call("f")
            assert (raised.value.fault.kind, raised.value.fault.rip) == (
                FaultKind.UNSUPPORTED_OPCODE,
                BASE,
            )
            bench.kprobes.unregister_kprobe(p)
            bench.kprobes.wait_for_kprobe_optimizer()


class TestAggregation:
    def test_handlers_at_one_address_run_newest_first_on_every_path(self, workbench):
        bench = workbench(CODE)
        for optimize in (False, True):
            bench.kprobes.kprobes_allow_optimization = optimize
            order: list[int] = []
            probes = [
                Kprobe(
                    symbol_name="f", pre_handler=lambda _p, _r, i=i, order=order: order.append(i)
                )
                for i in range(3)
            ]
            bench.kprobes.register_kprobes(probes)
            bench.kprobes.wait_for_kprobe_optimizer()
            bench.call("f", 5)
            assert order == [2, 1, 0]
            bench.kprobes.unregister_kprobes(probes)
            bench.kprobes.wait_for_kprobe_optimizer()

    def test_the_aggregator_lives_as_long_as_its_last_child(self, workbench):
        bench = workbench(CODE)
        (p, hits), (q, more) = counting(symbol_name="f"), counting(symbol_name="f")
        bench.kprobes.register_kprobes([p, q])
        bench.kprobes.wait_for_kprobe_optimizer()
        bench.kprobes.unregister_kprobe(p)
        bench.call("f", 5)
        assert (len(hits), len(more)) == (0, 1)
        bench.kprobes.unregister_kprobe(q)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert not bench.kprobes.kprobe_table

    def test_a_post_handler_that_joins_forces_the_jump_back_until_it_has_gone(self, workbench):
        bench = workbench(CODE)
        p, q = Kprobe(symbol_name="f"), Kprobe(symbol_name="f", post_handler=lambda *_: None)
        bench.kprobes.register_kprobe(p)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert at(bench)[0] == JMP
        bench.kprobes.register_kprobe(q)
        assert at(bench)[0] == INT3
        bench.kprobes.unregister_kprobe(q)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert at(bench)[0] == JMP

    def test_a_probe_inside_the_replaced_bytes_forces_its_neighbour_back_until_it_goes(
        self, workbench
    ):
        # The 4 bytes from f+2 on are too few for a jump.
        bench = workbench("mov eax, edi; add rax, rdi; ret")
        a, a_hits = counting(symbol_name="f")
        b, b_hits = counting(symbol_name="f", offset=2)
        bench.kprobes.register_kprobe(a)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert at(bench)[0] == JMP
        bench.kprobes.register_kprobe(b)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert at(bench)[0] == INT3
        assert bench.call("f", 5) == 10
        assert (len(a_hits), len(b_hits)) == (1, 1)
        bench.kprobes.unregister_kprobe(b)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert at(bench)[0] == JMP


class TestDelayedUnoptimizing:
    def test_a_disabled_probe_keeps_its_jump_until_the_pass_and_calls_no_handler(self, workbench):
        bench = workbench(CODE)
        p, hits = counting(symbol_name="f")
        bench.kprobes.register_kprobe(p)
        bench.kprobes.wait_for_kprobe_optimizer()
        bench.kprobes.disable_kprobe(p)
        assert at(bench)[0] == JMP
        assert bench.call("f", 5) == 13
        assert hits == []
        bench.kprobes.wait_for_kprobe_optimizer()
        assert at(bench, 0, 5) == bench.image.read(BASE, 5)

    def test_enabling_before_the_optimizer_runs_only_dequeues(self, workbench):
        bench = workbench(CODE)
        p, hits = counting(symbol_name="f")
        bench.kprobes.register_kprobe(p)
        bench.kprobes.wait_for_kprobe_optimizer()
        bench.kprobes.disable_kprobe(p)
        bench.kprobes.enable_kprobe(p)
        entry = bench.kprobes.get_kprobe(BASE)
        assert isinstance(entry, AggrKprobe)
        bench.kprobes.wait_for_kprobe_optimizer()
        bench.call("f", 5)
        assert len(hits) == 1
        assert entry.queue is Queue.NONE
        assert entry.flags == KprobeFlag.OPTIMIZED

    @pytest.mark.parametrize("n", [1, 255, 256, 257, 600])
    def test_n_probes_are_undone_in_ceil_n_over_256_stop_machine_calls(self, workbench, n):
        from arch_x86.lab.demo import many_functions

        bench = workbench(image=many_functions(n))
        original = bench.image.segments[0].data
        probes = [Kprobe(symbol_name=f"f{i}") for i in range(n)]
        bench.kprobes.register_kprobes(probes)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert all(bench.method(p) is Method.OPTIMIZED for p in probes)
        stops, passes = bench.plane.stats.stop_machine, bench.kprobes.optimizer.passes
        assert stops == -(-n // 256)
        bench.kprobes.unregister_kprobes(probes)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert bench.plane.stats.stop_machine - stops == -(-n // 256)
        assert bench.kprobes.optimizer.passes - passes == -(-n // 256)
        assert bench.machine.text.read(BASE, len(original)) == original

    def test_stop_machine_waits_for_a_cpu_in_the_middle_of_a_call(self, workbench):
        bench = workbench("l: add rax, rdi; nop; nop; sub rsi, 1; jnz l; ret", cpus=2)
        p, _hits = counting(symbol_name="f", offset=3)
        bench.kprobes.register_kprobe(p)
        bench.start_call(1, BASE, (1, 50_000))
        bench.executor.advance(1, 1234)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert not bench.executor.running(1)
        assert bench.plane.stats.stop_machine == 1
        assert bench.machine.cpus[1].registers()[0] == 50_000

    def test_a_boundary_crossing_page_is_optimized_and_restored(self, workbench):
        bench = workbench("nop; " * 4093 + "mov eax, 5; nop; ret")
        p, hits = counting(symbol_name="f", offset=4093)
        bench.kprobes.register_kprobe(p)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert bench.method(p) is Method.OPTIMIZED
        assert bench.call("f") == 5
        assert len(hits) == 1
        bench.kprobes.unregister_kprobe(p)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert bench.call("f") == 5


@pytest.mark.parametrize(
    ("code", "argument"),
    [("mov rax, [rdi]; ret", 0), ("mov rax, [rdi]; ret", 1 << 63), ("div edi; ret", 0)],
)
def test_a_fault_in_a_single_step_goes_on_at_the_fixup_whatever_fault_it_is(
    bench_of, profile, code, argument
):
    """In the kernels only a page fault goes on so; that is mended in every profile."""
    fixups = (ExceptionEntry(BASE, BASE + 256),)
    bench = bench_of(profile, asm_image(code, "mov eax, 7; ret", exception_table=fixups))
    p, hits = counting(addr=BASE)
    bench.kprobes.register_kprobe(p)
    assert bench.method(p) is Method.INT3
    assert (bench.call("f", argument), hits) == (7, [BASE + 1])
    assert bench.arch.ctlblk[0].current is None
