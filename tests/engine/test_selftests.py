"""The scenarios of the kernel's own tests, as laws: tools/testing/selftests/ftrace/test.d/kprobe/ and lib/test_kprobes.c of v6.1."""

from __future__ import annotations

import errno

import pytest

from arch_x86.lab.bench import Workbench
from arch_x86.lab.demo import many_functions
from arch_x86.lab.run import run_image
from engine.debugfs import kprobes_list
from engine.errors import InputError, KprobeError
from engine.image import Image
from engine.interrupts import parse_interrupts
from engine.kprobe import Kprobe, KprobeFlag
from engine.kprobe_events import parse_spec
from engine.kretprobes import Kretprobe
from engine.profile import PROFILES
from tests.conftest import asm_image
from tests.engine.guests import elf

EVERY = pytest.mark.parametrize("profile", PROFILES, ids=lambda profile: profile.name)
TARGETS = "mov eax, edi; add eax, 3; nop; nop; ret", "mov eax, edi; add eax, 5; nop; nop; ret"


@pytest.fixture
def bench_of(pool):
    made: list[Workbench] = []

    def make(profile, image: Image | None = None, **options):
        made.append(Workbench(image or asm_image(*TARGETS), pool=pool, profile=profile, **options))
        return made[-1]

    yield make
    for bench in made:
        bench.close()


def listed(bench) -> list[str]:
    return kprobes_list(bench.kprobes).splitlines()


@EVERY
class TestMultipleKprobes:
    """multiple_kprobes.tc: exactly 256 probes, enabled and removed at once."""

    def test_256_probes_are_all_hit_once_and_leave_no_trace(self, bench_of, profile):
        bench = bench_of(profile, many_functions(256))
        hits: list[int] = []
        probes = [Kprobe(symbol_name=f"f{i}", pre_handler=lambda p, _regs: hits.append(p.at)) for i in range(256)]
        bench.kprobes.register_kprobes(probes)
        assert len(listed(bench)) == 256
        bench.kprobes.wait_for_kprobe_optimizer()
        assert [bench.call(f"f{i}") for i in range(256)] == list(range(256))
        assert hits == [p.at for p in probes]
        assert bench.kprobes.unregister_kprobes(probes) == 256
        bench.kprobes.wait_for_kprobe_optimizer()
        assert (listed(bench), bench.kprobes.kprobe_table) == ([], {})
        segment = bench.image.segments[0]
        assert bench.machine.text.read(segment.addr, segment.size) == segment.data

    def test_a_257th_waits_for_a_pass_of_its_own_where_a_pass_is_limited(self, bench_of, profile):
        bench = bench_of(profile, many_functions(257))
        bench.kprobes.register_kprobes([Kprobe(symbol_name=f"f{i}") for i in range(257)])
        bench.kprobes.wait_for_kprobe_optimizer()
        assert bench.kprobes.optimizer.passes == (1 if profile.pass_max is None else 2)


@EVERY
class TestInsnBoundary:
    """kprobe_insn_boundary.tc: offsets 0 to 255 of a function, one after the other."""

    def test_exactly_the_boundaries_take_a_probe_and_all_can_be_taken_away(self, bench_of, profile):
        image = elf("sha256.o")
        bench = bench_of(profile, image)
        start = image.by_name["compress"].addr
        function = bench.arch.code.function_at(start)
        boundaries = {addr - start for addr in function.boundaries if addr - start < 256}
        taken: list[Kprobe] = []
        refused: set[int] = set()
        for offset in range(256):
            p = Kprobe(symbol_name="compress", offset=offset)
            try:
                bench.kprobes.register_kprobe(p)
                taken.append(p)
            except KprobeError as error:
                refused.add(error.errno)
        assert refused == {errno.EILSEQ}
        assert {p.at - start for p in taken} == boundaries
        assert bench.kprobes.unregister_kprobes(taken) == len(boundaries)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert bench.machine.text.read(start, 256) == image.read(start, 256)


@EVERY
class TestOptTypes:
    """kprobe_opt_types.tc: what `list` says of a probe that can be optimized, and of one that is disabled."""

    def test_list_says_optimized_once_the_optimizer_has_come_and_not_when_disabled(self, bench_of, profile):
        bench = bench_of(profile)
        p = Kprobe(symbol_name="f")
        bench.kprobes.register_kprobe(p)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert listed(bench)[0].endswith("[OPTIMIZED]")
        bench.kprobes.disable_kprobe(p)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert listed(bench)[0].endswith("[DISABLED]")
        bench.kprobes.enable_kprobe(p)
        bench.kprobes.wait_for_kprobe_optimizer()
        assert listed(bench)[0].endswith("[OPTIMIZED]")

    def test_a_return_probe_is_listed_by_its_letter(self, bench_of, profile):
        bench = bench_of(profile)
        bench.kprobes.register_kretprobe(Kretprobe(symbol_name="f"))
        assert listed(bench)[0].split()[1] == "r"


@EVERY
class TestMultiprobe:
    """kprobe_multiprobe.tc: several events at one place."""

    def test_each_counts_and_removing_one_leaves_the_other(self, bench_of, profile):
        bench = bench_of(profile)
        hits: list[str] = []
        first, second = (Kprobe(symbol_name="f", pre_handler=lambda *_, n=name: hits.append(n)) for name in ("first", "second"))
        bench.kprobes.register_kprobes([first, second])
        bench.kprobes.wait_for_kprobe_optimizer()
        assert bench.call("f", 1) == 4
        assert sorted(hits) == ["first", "second"]
        bench.kprobes.unregister_kprobe(first)
        hits.clear()
        assert (bench.call("f", 1), hits) == (4, ["second"])


@EVERY
class TestAddRemoveAndBusy:
    """add_and_remove.tc, busy_check.tc."""

    def test_the_same_probe_twice_is_refused_and_the_first_stays(self, bench_of, profile):
        bench = bench_of(profile)
        p = Kprobe(symbol_name="f")
        bench.kprobes.register_kprobe(p)
        with pytest.raises(KprobeError) as refused:
            bench.kprobes.register_kprobe(p)
        assert refused.value.errno == errno.EINVAL
        assert len(listed(bench)) == 1
        assert bench.kprobes.unregister_kprobe(p)
        assert not bench.kprobes.unregister_kprobe(p)


class TestMaxactive:
    """kretprobe_maxactive.tc."""

    @pytest.mark.parametrize(
        ("text", "number"), [("r f", None), ("r10 f", 10), ("r4096 f", 4096), ("r10:grp/name f", 10), ("r:name f", None)]
    )
    def test_is_the_number_behind_the_r(self, text, number):
        assert parse_spec(text).maxactive == number

    @pytest.mark.parametrize("text", ["p10 f", "rx f", "r-1 f", "r10a f", "r1 f+4"])
    def test_is_refused_elsewhere(self, text):
        with pytest.raises(InputError):
            parse_spec(text)

    @EVERY
    def test_is_at_most_4096(self, pool, profile):
        for number, fine in ((4096, True), (4097, False)):
            arguments = (asm_image(*TARGETS), "f", (), [parse_spec(f"r{number} f")])
            if fine:
                run_image(*arguments, interrupts=parse_interrupts("none"), pool=pool)
            else:
                with pytest.raises(KprobeError) as refused:
                    run_image(*arguments, interrupts=parse_interrupts("none"), pool=pool)
                assert refused.value.errno == errno.E2BIG


class TestEventSyntax:
    """kprobe_eventname.tc, kprobe_syntax_errors.tc, as far as probe definitions go."""

    @pytest.mark.parametrize(
        ("text", "group", "event"),
        [("p f", None, None), ("p:e1 f", None, "e1"), ("p:g1/e1 f", "g1", "e1"), ("p:_g/_e f+0x4", "_g", "_e"), ("r:g/e f", "g", "e")],
    )
    def test_names_are_group_and_event(self, text, group, event):
        spec = parse_spec(text)
        assert (spec.group, spec.event) == (group, event)

    @pytest.mark.parametrize(
        "text",
        ["", "p: f", "p:1bad f", "p:a-b f", "p:g/ f", "p:/e f", "q f", "p f+", "p f+0x", "p f-4", "p +4", "p f+99999999999999999999"],
    )
    def test_what_is_malformed_is_refused_with_one_line(self, text):
        with pytest.raises(InputError) as refused:
            parse_spec(text)
        assert "\n" not in str(refused.value)


@EVERY
class TestSanity:
    """lib/test_kprobes.c: a handler in front, one behind, several at once, missed ones, returns."""

    def test_a_probe_runs_its_handlers_around_the_function_once_a_call(self, bench_of, profile):
        bench = bench_of(profile)
        seen: list[str] = []
        p = Kprobe(symbol_name="f", pre_handler=lambda *_: seen.append("pre"), post_handler=lambda *_: seen.append("post"))
        bench.kprobes.register_kprobe(p)
        assert (bench.call("f", 7), seen) == (10, ["pre", "post"])
        bench.kprobes.unregister_kprobe(p)
        assert (bench.call("f", 7), seen) == (10, ["pre", "post"])

    def test_two_registered_together_are_each_hit_by_their_own_function(self, bench_of, profile):
        bench = bench_of(profile)
        seen: list[str] = []
        probes = [Kprobe(symbol_name=name, pre_handler=lambda *_, n=name: seen.append(n)) for name in ("f", "g")]
        bench.kprobes.register_kprobes(probes)
        assert (bench.call("f", 1), bench.call("g", 1), seen) == (4, 6, ["f", "g"])
        assert bench.kprobes.unregister_kprobes(probes) == 2

    def test_a_hit_inside_a_handler_is_missed_and_still_runs(self, bench_of, profile):
        bench = bench_of(profile)
        inner: list[int] = []

        def outer_handler(_p, _regs):
            inner.append(bench.call_nested(0, bench.image.by_name["g"].addr, 1))

        outer, other = Kprobe(symbol_name="f", pre_handler=outer_handler), Kprobe(symbol_name="g", pre_handler=lambda *_: inner.append(-1))
        bench.kprobes.register_kprobes([outer, other])
        assert (bench.call("f", 1), inner, other.nmissed, outer.nmissed) == (4, [6], 1, 0)

    def test_a_return_probe_sees_the_result_and_where_the_call_goes_back_to(self, bench_of, profile):
        bench = bench_of(profile)
        seen: list[tuple[str, int]] = []
        rp = Kretprobe(
            symbol_name="f",
            entry_handler=lambda _ri, regs: seen.append(("entry", regs.di)),
            handler=lambda ri, regs: seen.append(("return", regs.ax)) or seen.append(("to", ri.ret_addr)),
        )
        bench.kprobes.register_kretprobe(rp)
        assert bench.call("f", 7) == 10
        assert seen == [("entry", 7), ("return", 10), ("to", bench.machine.stubs.call_return)]
        assert bench.kprobes.unregister_kretprobe(rp)
        assert bench.call("f", 7) == 10
        assert len(seen) == 3

    def test_two_return_probes_registered_together_each_see_their_own_function(self, bench_of, profile):
        bench = bench_of(profile)
        seen: list[int] = []
        returns = [Kretprobe(symbol_name=name, handler=lambda _ri, regs: seen.append(regs.ax)) for name in ("f", "g")]
        bench.kprobes.register_kretprobes(returns)
        assert (bench.call("f", 1), bench.call("g", 1), seen) == (4, 6, [4, 6])
        assert bench.kprobes.unregister_kretprobes(returns) == 2

    def test_a_disabled_one_is_not_hit(self, bench_of, profile):
        bench = bench_of(profile)
        hits: list[int] = []
        p = Kprobe(symbol_name="f", pre_handler=lambda *_: hits.append(1), flags=KprobeFlag.DISABLED)
        bench.kprobes.register_kprobe(p)
        assert (bench.call("f", 1), hits) == (4, [])
        bench.kprobes.enable_kprobe(p)
        assert (bench.call("f", 1), hits) == (4, [1])


@pytest.mark.parametrize("count", [1, 255, 256, 257, 600])
def test_unregistering_n_at_once_takes_ceil_n_256_stop_machine_calls(bench_of, count):
    bench = bench_of(PROFILES[0], many_functions(count))
    probes = [Kprobe(symbol_name=f"f{i}") for i in range(count)]
    bench.kprobes.register_kprobes(probes)
    bench.kprobes.wait_for_kprobe_optimizer()
    before = bench.plane.stats.stop_machine
    bench.kprobes.unregister_kprobes(probes)
    bench.kprobes.wait_for_kprobe_optimizer()
    assert bench.plane.stats.stop_machine - before == -(-count // 256)
