"""Laws of probes on ftrace locations: a call of a trampoline, or in 2010 a breakpoint."""

from __future__ import annotations

import errno
import json
from dataclasses import replace

import pytest

from arch_x86.emu.cpu import FLAG_IF
from arch_x86.emu.entry import wrong_entry
from arch_x86.probes.inspect import inspect_json
from engine.commands.cli import main
from engine.core.ablation import without
from engine.core.debugfs import kprobes_list
from engine.core.global_switches import set_kprobes_enabled
from engine.core.profiles import LINUX_6_1, LINUX_2010, NEXT
from engine.errors import KprobeError
from engine.image import Reserved, ReservedKind
from engine.kprobe import Kprobe, KprobeFlag, Method
from engine.kretprobe import Kretprobe
from tests.conftest import BASE, asm_image
from tests.engine.traced import BODY, LOCATION, SITES, traced

FTRACE = KprobeFlag.FTRACE | KprobeFlag.ON_FUNC_ENTRY
NEW = pytest.mark.parametrize("profile", [LINUX_6_1, NEXT], ids=lambda profile: profile.name)


@pytest.fixture(params=SITES)
def site(request) -> str:
    return request.param


def text(bench, site: str) -> str:
    """The text at the site, ``original`` or the call."""
    original, prefix = SITES[site]
    found = bench.machine.text.read(BASE, len(original) + 1)
    assert found[-1] == bench.image.read(BASE, len(original) + 1)[-1]
    if found[:-1] == original:
        return "original"
    end = BASE + len(original)
    assert found.startswith(prefix)
    assert (
        end + int.from_bytes(found[len(prefix) : -1], "little", signed=True)
        == bench.machine.stubs.ftrace_caller
    )
    return "call"


def whole(bench) -> bool:
    segment = bench.image.segments[0]
    return bench.machine.text.read(segment.addr, len(segment.data)) == segment.data


def counting(hits: list, **fields) -> Kprobe:
    return Kprobe(symbol_name="f", pre_handler=lambda p, _regs: hits.append(p), **fields)


@NEW
class TestTheText:
    def test_is_ftraces_call_while_armed_and_the_original_else_never_int3(
        self, bench_of, profile, site
    ):
        bench = bench_of(profile, traced(site))
        core, hits = bench.kprobes, []
        p = counting(hits)

        def holds(what: str, flags: KprobeFlag = FTRACE) -> None:
            core.wait_for_kprobe_optimizer()
            assert (text(bench, site), p.flags, bench.arch.slots.used, bench.arch.detours.used) == (
                what,
                flags,
                0,
                0,
            )
            hits.clear()
            assert (bench.call("f", 4), len(hits)) == (7, what == "call")
            assert core.get_kprobe(BASE) is p

        core.register_kprobe(p)
        assert (bench.method(p), kprobes_list(core).split()[3]) == (Method.FTRACE, "[FTRACE]")
        holds("call")
        core.disable_kprobe(p)
        assert kprobes_list(core).split()[3] == "[DISABLED][FTRACE]"
        holds("original", FTRACE | KprobeFlag.DISABLED)
        core.enable_kprobe(p)
        holds("call")
        set_kprobes_enabled(core, on=False)
        holds("original")
        set_kprobes_enabled(core, on=True)
        holds("call")
        core.unregister_kprobe(p)
        assert (whole(bench), core.kprobe_table, bench.call("f", 4)) == (True, {}, 7)

    def test_comes_disabled_where_the_probe_does(self, bench_of, profile, site):
        bench = bench_of(profile, traced(site))
        p = Kprobe(symbol_name="f", flags=KprobeFlag.DISABLED)
        bench.kprobes.register_kprobe(p)
        assert (text(bench, site), p.flags) == ("original", FTRACE | KprobeFlag.DISABLED)

    def test_is_written_behind_a_breakpoint_with_three_core_syncs_each_way(self, bench_of, profile):
        bench = bench_of(profile, traced())
        writes: list[tuple[int, bytes]] = []
        bench.machine.text.listeners.append(
            lambda write: writes.append((write.addr - BASE, write.data))
        )
        p = Kprobe(symbol_name="f")
        bench.kprobes.register_kprobe(p)
        call = bench.machine.text.read(BASE, 5)
        bench.kprobes.unregister_kprobe(p)
        original = SITES["nop"][0]
        assert writes == [
            (0, b"\xcc"),
            (1, call[1:]),
            (0, call[:1]),
            (0, b"\xcc"),
            (1, original[1:]),
            (0, original[:1]),
        ]
        assert bench.plane.stats.syncs == 6

    @pytest.mark.parametrize("steps", [(), ("bp-refs",)], ids=["all steps", "no bp-refs"])
    def test_while_it_is_written_whoever_comes_makes_the_new_instruction(
        self, bench_of, monkeypatch, profile, site, steps
    ):
        bench = bench_of(without(profile, frozenset(steps)), traced(site))
        hits: list[Kprobe] = []
        p, seen = counting(hits), []

        def sync(_why: str) -> None:
            hits.clear()
            seen.append((bench.call("f", 4), len(hits)))

        monkeypatch.setattr(bench.plane, "text_poke_sync", sync)
        bench.kprobes.register_kprobe(p)
        bench.kprobes.unregister_kprobe(p)
        assert seen == [(7, 1)] * 3 + [(7, 0)] * 3

    def test_is_decoded_as_if_no_probe_were_there(self, bench_of, profile, site):
        bench = bench_of(profile, traced(site))
        before = inspect_json(bench.image)
        bench.kprobes.register_kprobe(Kprobe(symbol_name="f"))
        size = len(SITES[site][0])
        for at in range(size + 1):  # also from inside of the call
            assert bench.arch.recovered(BASE + at, 16 - at) == bench.image.read(BASE + at, 16 - at)
        p = Kprobe(symbol_name="f", offset=size)
        bench.kprobes.register_kprobe(p)
        assert (inspect_json(bench.image), p.ftrace) == (before, False)


@NEW
class TestHandlers:
    def test_see_the_entry_of_the_function_and_interrupts_as_it_has_them(
        self, bench_of, profile, site
    ):
        bench = bench_of(profile, traced(site))
        seen: list[tuple[int, ...]] = []
        end = BASE + len(SITES[site][0])

        def pre(_p, regs):
            seen.append(
                (
                    regs.ip,
                    regs.di,
                    regs.orig_ax,
                    regs.flags & FLAG_IF,
                    bench.machine.ram.read_u64(regs.sp),
                )
            )
            assert bench.arch.cpus.handler_takes_interrupts(0)

        p = Kprobe(
            symbol_name="f",
            pre_handler=pre,
            post_handler=lambda _p, regs, flags: seen.append((regs.ip, flags)),
        )
        bench.kprobes.register_kprobe(p)
        assert bench.call("f", 4) == 7
        assert seen == [(BASE + 1, 4, 0, FLAG_IF, bench.machine.stubs.call_return), (end, 0)]

    def test_change_registers_and_flags_but_not_the_stack_pointer(self, bench_of, profile):
        bench = bench_of(profile, traced(body="; mov eax, edi; adc eax, 3; ret"))

        def pre(_p, regs):
            regs.di, regs.flags, regs.sp = 40, regs.flags | 1, 0

        bench.kprobes.register_kprobe(Kprobe(symbol_name="f", pre_handler=pre))
        assert bench.call("f", 4) == 44

    def test_that_set_ip_and_return_1_end_the_hit_without_a_post_handler(
        self, bench_of, profile, site
    ):
        bench = bench_of(profile, traced(site))
        posts: list[Kprobe] = []

        def pre(_p, regs):
            regs.ip = BASE + 0x100
            return 1

        older = counting(hits := [], post_handler=lambda p, *_: posts.append(p))
        newer = Kprobe(symbol_name="f", pre_handler=pre)
        bench.kprobes.register_kprobes([older, newer])
        assert [bench.call("f", 4) for _ in range(2)] == [9, 9]  # the result of g(4)
        assert (hits, posts, newer.nmissed) == ([], [], 0)

    def test_that_set_ip_and_return_0_go_on_behind_the_site(self, bench_of, profile):
        bench = bench_of(profile, traced())
        p = Kprobe(
            symbol_name="f",
            pre_handler=lambda _p, regs: setattr(regs, "ip", 1),
            post_handler=lambda _p, regs, _f: setattr(regs, "ip", 1),
        )
        bench.kprobes.register_kprobe(p)
        assert bench.call("f", 4) == 7

    def test_of_several_probes_run_newest_first_and_of_disabled_ones_not(self, bench_of, profile):
        bench = bench_of(profile, traced())
        order: list[tuple[str, Kprobe]] = []
        handlers = {
            "pre_handler": lambda p, _r: order.append(("pre", p)),
            "post_handler": lambda p, *_: order.append(("post", p)),
        }
        a, b, c = (Kprobe(symbol_name="f", **handlers) for _ in range(3))
        bench.kprobes.register_kprobes([a, b, c])
        bench.kprobes.disable_kprobe(b)
        entry = bench.kprobes.get_kprobe(BASE)
        assert bench.call("f", 4) == 7
        assert order == [("pre", c), ("pre", a), ("post", c), ("post", a)]
        assert (entry.ftrace, entry.optready, bench.method(a)) == (True, False, Method.FTRACE)
        bench.kprobes.unregister_kprobes([c, a])
        assert text(bench, "nop") == "original"
        bench.kprobes.enable_kprobe(b)
        assert text(bench, "nop") == "call"
        bench.kprobes.unregister_kprobe(b)
        assert (whole(bench), bench.kprobes.kprobe_table) == (True, {})

    def test_one_with_a_post_handler_comes_and_goes_beside_one_without(self, bench_of, profile):
        bench = bench_of(profile, traced())
        a, b = counting([]), counting([], post_handler=lambda *_: None)
        bench.kprobes.register_kprobe(a)
        bench.kprobes.register_kprobe(b)
        bench.kprobes.unregister_kprobe(b)
        # the aggregator keeps it (5dd7caf0bdc5)
        assert bench.kprobes.get_kprobe(BASE).post_handler is not None
        assert bench.call("f", 4) == 7
        bench.kprobes.unregister_kprobe(a)
        assert (whole(bench), bench.kprobes.kprobe_table) == (True, {})

    def test_hits_in_what_a_handler_calls_are_missed_and_counted_both_ways(self, bench_of, profile):
        bench = bench_of(profile, traced())
        f, g = BASE, BASE + 0x100
        calls: list[int] = []
        at_f = Kprobe(
            symbol_name="f", pre_handler=lambda *_: calls.append(bench.call_nested(0, g, 1))
        )
        again = Kprobe(symbol_name="f")
        at_g = Kprobe(
            symbol_name="g", pre_handler=lambda *_: calls.append(bench.call_nested(0, f, 1))
        )
        bench.kprobes.register_kprobes([at_f, again, at_g])
        assert (bench.call("f", 4), calls) == (7, [6])
        assert (at_f.nmissed, again.nmissed, at_g.nmissed) == (0, 0, 1)
        assert (bench.call("g", 4), calls) == (9, [6, 4])
        assert (at_f.nmissed, again.nmissed, at_g.nmissed) == (1, 1, 1)
        assert (bench.call("f", 4), bench.arch.ctlblk[0].current) == (7, None)

    def test_of_a_return_probe_find_the_return_address(self, bench_of, profile, site):
        bench = bench_of(profile, traced(site))
        entered, returned = [], []
        rp = Kretprobe(
            symbol_name="f",
            entry_handler=lambda ri, regs: entered.append(regs.ip) and 0,
            handler=lambda ri, regs: returned.append((ri.ret_addr, regs.ax)),
        )
        bench.kprobes.register_kretprobe(rp)
        assert (rp.kp.ftrace, text(bench, site)) == (True, "call")
        assert [bench.call("f", n) for n in (4, 5)] == [7, 8]
        assert entered == [BASE + 1] * 2
        assert returned == [(bench.machine.stubs.call_return, value) for value in (7, 8)]
        bench.kprobes.unregister_kretprobe(rp)
        assert whole(bench)

    def test_begin_with_df_clear_and_leave_the_flags_as_they_were(self, bench_of, profile):
        flags = "pushfq; pop rax; push rbx; pop rcx; cld; ret"  # the code behind the site
        bench = bench_of(profile, traced(body=f"; {flags}"))
        machine, executor = bench.machine, bench.executor
        hits: list[str | None] = []
        p = Kprobe(
            symbol_name="f",
            pre_handler=lambda *_: hits.append(wrong_entry(machine, machine.cpus[0])),
        )
        bench.kprobes.register_kprobe(p)
        for wanted in (0x202, 0x246, 0x602, 0xAD7):  # DF is set in the third
            executor.begin_call(0, BASE, (1, 2))
            uc = machine.cpus[0].uc
            uc.load()
            uc.gpr[16] = wanted
            uc.store()
            assert executor.run_call(0, 1000) is None
            assert machine.cpus[0].registers()[0] == wanted
        assert hits == [None] * 4


@NEW
class TestATaskInTheTrampoline:
    def test_goes_on_whole_when_its_probe_is_disarmed_and_freed(self, bench_of, profile, site):
        bench = bench_of(profile, traced(site))
        stubs = bench.machine.stubs
        hits: list[Kprobe] = []
        for steps in range(1, 24):  # the trampoline asks for handlers behind 24 instructions or so
            p = counting(hits)
            bench.kprobes.register_kprobe(p)
            bench.start_call(0, BASE, (4,))
            bench.executor.advance(0, steps)
            assert stubs.ftrace_caller <= bench.machine.cpus[0].rip < stubs.ftrace_caller + 0x80
            bench.kprobes.disable_kprobe(p)
            assert text(bench, site) == "original"
            if steps % 2:  # else it finds a disabled probe
                bench.kprobes.unregister_kprobe(p)
            assert (bench.finish_calls(), bench.machine.cpus[0].registers()[0]) == ([], 7)
            bench.kprobes.unregister_kprobe(p)
        assert hits == []

    @pytest.mark.parametrize("pushes", range(12))
    def test_that_has_no_stack_left_is_reported_where_it_came_from(self, bench_of, profile, pushes):
        bench = bench_of(profile, traced(body="; push rdi; call 0x10000000; ret"))
        bench.kprobes.register_kprobe(Kprobe(symbol_name="f"))
        bench.start_call(0, BASE, (4,))
        uc = bench.machine.cpus[0].uc
        uc.load()
        uc.gpr[4] -= bench.machine.config.stack_pages * 4096 - 1024 - 8 * pushes
        uc.store()
        (fault,) = bench.finish_calls()
        # the site, a PUSH or the CALL
        assert (fault.symbol, fault.offset in (0, 5, 6)) == ("f", True)

    def test_whose_handler_raises_is_reported_at_the_site(self, bench_of, profile, site):
        bench = bench_of(profile, traced(site))
        bench.kprobes.register_kprobe(Kprobe(symbol_name="f", pre_handler=lambda *_: 1 // 0))
        bench.start_call(0, BASE, (4,))
        with pytest.raises(ZeroDivisionError):
            bench.finish_calls()
        fault = bench.machine.tasks[0].fault
        assert (fault.symbol, fault.offset) == ("f", 0)


@NEW
class TestRegistration:
    def test_inside_the_site_is_refused(self, bench_of, profile):
        bench = bench_of(profile, traced())
        for offset in range(1, 5):
            with pytest.raises(KprobeError) as refused:
                bench.kprobes.register_kprobe(Kprobe(symbol_name="f", offset=offset))
            assert refused.value.errno == errno.EILSEQ

    @pytest.mark.parametrize("code", ["8d44070190", "0f1f040090", "e9fb000000", "6690669090"])
    def test_on_a_location_that_holds_something_else_is_enodev_as_inspect_says(
        self, bench_of, profile, code
    ):
        image = replace(
            asm_image(".byte " + ", ".join(f"0x{byte:02x}" for byte in bytes.fromhex(code)) + BODY),
            reserved=(LOCATION,),
        )
        bench = bench_of(profile, image)
        with pytest.raises(KprobeError, match="no-ftrace-call") as refused:
            bench.kprobes.register_kprobe(Kprobe(symbol_name="f"))
        site = inspect_json(image)["functions"][0]["sites"][0]
        assert (refused.value.errno, site["probe"], site["probe_reason"]) == (
            errno.ENODEV,
            -errno.ENODEV,
            "no-ftrace-call",
        )
        assert (whole(bench), bench.kprobes.kprobe_table) == (True, {})

    def test_in_front_of_a_site_never_puts_a_jump_over_it(self, bench_of, profile):
        code = "mov eax, edi; mov edx, edi; .byte 0x0f, 0x1f, 0x44, 0x00, 0x00" + BODY
        image = asm_image(code, reserved=(Reserved(BASE + 4, 5, ReservedKind.FTRACE_SITE),))
        bench = bench_of(profile, image)
        hits: list[Kprobe] = []
        front, on = (
            Kprobe(symbol_name="f", offset=offset, pre_handler=lambda p, _r: hits.append(p))
            for offset in (0, 4)
        )
        bench.kprobes.register_kprobes([front, on])
        bench.kprobes.wait_for_kprobe_optimizer()
        assert (bench.method(front) in (Method.INT3, Method.BOOSTED), bench.method(on)) == (
            True,
            Method.FTRACE,
        )
        assert inspect_json(image)["functions"][0]["sites"][0]["reason"] == "reserved-text"
        assert (bench.call("f", 4), hits) == (7, [front, on])

    def test_of_an_image_for_ibt_moves_from_endbr_to_the_site(self, bench_of, profile):
        code = ".byte 0xf3, 0x0f, 0x1e, 0xfa, 0x0f, 0x1f, 0x44, 0x00, 0x00" + BODY
        bench = bench_of(
            profile,
            asm_image(code, ibt=True, reserved=(Reserved(BASE + 4, 5, ReservedKind.FTRACE_SITE),)),
        )
        p = Kprobe(symbol_name="f")
        bench.kprobes.register_kprobe(p)
        assert (p.at, p.flags, bench.call("f", 4)) == (BASE + 4, FTRACE, 7)

    def test_ends_with_the_code_which_is_left_as_it_was_and_begins_again_with_it(
        self, bench_of, profile
    ):
        bench = bench_of(profile, traced())
        core, size = bench.kprobes, len(bench.image.segments[0].data)
        old, new, hits = Kprobe(symbol_name="f"), counting(hits := []), hits
        core.register_kprobe(old)
        assert core.kprobes_module_going(BASE, size) == 1
        assert (whole(bench), old.gone, kprobes_list(core).split()[3]) == (
            True,
            True,
            "[GONE][FTRACE]",
        )
        bench.machine.unload_text(BASE, size)
        bench.machine.load_text(BASE, bench.image.segments[0].data)
        core.register_kprobe(new)
        assert (text(bench, "nop"), new.flags, bench.call("f", 4), hits) == (
            "call",
            FTRACE,
            7,
            [new],
        )
        core.unregister_kprobes([old, new])
        assert (whole(bench), core.kprobe_table) == (True, {})

    def test_of_a_batch_serves_breakpoints_and_calls_alike(self, bench_of, profile):
        bench = bench_of(profile, traced())
        hits: list[Kprobe] = []
        both = [Kprobe(symbol_name=name, pre_handler=lambda p, _r: hits.append(p)) for name in "fg"]
        bench.kprobes.register_kprobes(both)
        assert (bench.call("f", 4), bench.call("g", 4), hits) == (7, 9, both)
        bench.kprobes.unregister_kprobes(both)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert whole(bench)


def test_without_a_breakpoint_handler_who_comes_meanwhile_runs_at_address_0(bench_of, monkeypatch):
    bench = bench_of(without(LINUX_6_1, frozenset({"bp-handler"})), traced())
    faults: list[object] = []

    def sync(_why: str) -> None:
        bench.start_call(0, BASE, (4,))
        faults.extend(bench.finish_calls())

    monkeypatch.setattr(bench.plane, "text_poke_sync", sync)
    bench.kprobes.register_kprobe(Kprobe(symbol_name="f"))
    assert [fault.rip for fault in faults] == [0, 0]


def test_in_2010_it_is_a_breakpoint_over_what_stands_there(bench_of, site):
    bench = bench_of(LINUX_2010, traced(site))
    hits: list[Kprobe] = []
    p = counting(hits)
    bench.kprobes.register_kprobe(p)
    bench.kprobes.wait_for_kprobe_optimizer()
    assert (bench.machine.text.read(BASE, 1), p.flags, bench.method(p) is Method.FTRACE) == (
        b"\xcc",
        KprobeFlag(0),
        False,
    )
    assert (bench.call("f", 4), hits) == (7, [p])
    bench.kprobes.unregister_kprobe(p)
    assert whole(bench)


def _saved(tmp_path, image) -> str:
    segment = image.segments[0]
    document = {
        "format": "code-image",
        "version": 1,
        "segments": [{"addr": segment.addr, "hex": segment.data.hex()}],
        "symbols": [
            {"name": one.name, "addr": one.addr, "size": one.size} for one in image.symbols
        ],
        "reserved": [
            {"addr": one.addr, "size": one.size, "kind": one.kind.value} for one in image.reserved
        ],
    }
    (tmp_path / "traced.json").write_text(json.dumps(document))
    return str(tmp_path / "traced.json")


@NEW
class TestCommands:
    def test_script_shows_the_flag_and_the_call(self, tmp_path, capsys, profile):
        path = _saved(tmp_path, traced())
        (tmp_path / "ops").write_text("reg 0 f+0\ncall f x2\ncnt 0\ndis 0\nunreg 0\n")
        assert (
            main(["script", path, str(tmp_path / "ops"), "--profile", profile.name, "--json"]) == 0
        )
        reg, call, cnt, dis, unreg = map(json.loads, capsys.readouterr().out.splitlines())
        assert (reg["rc"], reg["syncs"], reg["pflags"], reg["text"][:2], reg["list"]) == (
            0,
            3,
            24,
            "e8",
            [["f+0x0", "[FTRACE]"]],
        )
        assert (call["ret"], cnt["hits"], cnt["lastip"]) == ("4", 2, "f+0x1/0xb")
        assert (dis["text"][:10], dis["list"], unreg["text"][:10]) == (
            "0f1f440000",
            [["f+0x0", "[DISABLED][FTRACE]"]],
            "0f1f440000",
        )

    def test_run_says_ftrace_and_verify_is_good_with_an_interrupt_anywhere(
        self, tmp_path, capsys, profile
    ):
        path = _saved(tmp_path, traced("call"))
        common = ["--call", "f", "--arg", "4", "--profile", profile.name, "--json"]
        assert main(["run", path, "--probe", "f+0", *common]) == 0
        (probe,) = json.loads(capsys.readouterr().out)["probes"]
        assert (probe["method"], probe["hits"], probe["misses"]) == ("ftrace", 1, 0)
        assert main(["verify", path, "--interrupts", "boundaries", *common]) == 0
        verdict = json.loads(capsys.readouterr().out)
        assert (verdict["verdict"], verdict["failures"], verdict["runs"] > 100) == (
            "good",
            [],
            True,
        )
