"""The scenarios of the kernel's own kprobe selftests as laws, on compiled code where possible.

They are those of tools/testing/selftests/ftrace/test.d/kprobe/ of v6.1.
"""

from __future__ import annotations

import errno
from dataclasses import replace

import pytest

from arch_x86.lab.demo import many_functions
from arch_x86.probes.optimize import OptimizePlan, can_optimize
from engine.core.debugfs import kprobes_list
from engine.errors import KprobeError
from engine.image import Reserved, ReservedKind
from engine.kprobe import Kprobe, KprobeFlag, Method
from engine.kretprobe import Kretprobe
from tests.conftest import BASE, asm_image
from tests.engine.guests import case, elf, run_case

SHA = "sha256-200"


def listed(bench) -> list[str]:
    return kprobes_list(bench.kprobes).splitlines()


def boundaries(bench, symbol: str) -> list[int]:
    """The offsets of the instructions of a function."""
    start = bench.image.by_name[symbol].addr
    return sorted(addr - start for addr in bench.arch.code.function_at(start).boundaries)


def taken_by(bench, symbol: str, offsets, **handlers) -> tuple[list[Kprobe], set[int]]:
    """Register a probe at each offset.

    :returns: the probes that were taken, and the errnos of the others.
    """
    taken: list[Kprobe] = []
    refused: set[int] = set()
    for offset in offsets:
        p = Kprobe(symbol_name=symbol, offset=offset, **handlers)
        try:
            bench.kprobes.register_kprobe(p)
            taken.append(p)
        except KprobeError as error:
            refused.add(error.errno)
    return taken, refused


def assert_no_trace(bench) -> None:
    bench.kprobes.wait_for_kprobe_optimizer()
    assert (listed(bench), bench.kprobes.kprobe_table) == ([], {})
    assert (bench.arch.slots.used, bench.arch.detours.used) == (0, 0)
    for segment in bench.image.segments:
        if segment.executable:
            assert bench.machine.text.read(segment.addr, len(segment.data)) == segment.data


class TestMultipleKprobes:
    """multiple_kprobes.tc: exactly 256 probes are enabled and removed at once."""

    def test_256_probes_are_all_hit_once_and_leave_no_trace(self, bench_of, profile):
        bench = bench_of(profile, many_functions(256))
        hits: list[int] = []
        probes = [
            Kprobe(symbol_name=f"f{i}", pre_handler=lambda p, _regs: hits.append(p.at))
            for i in range(256)
        ]
        bench.kprobes.register_kprobes(probes)
        assert len(listed(bench)) == 256
        bench.kprobes.wait_for_kprobe_optimizer()
        assert [bench.call(f"f{i}") for i in range(256)] == list(range(256))
        assert hits == [p.at for p in probes]
        assert bench.kprobes.unregister_kprobes(probes) == 256
        assert_no_trace(bench)

    def test_256_probes_in_compiled_code_leave_its_result_alone_and_no_trace(
        self, bench_of, profile
    ):
        bench = bench_of(profile, elf("sha256.o"))
        hits: set[int] = set()
        handler = {"pre_handler": lambda p, _regs: hits.add(p.at)}
        compress, _ = taken_by(bench, "compress", boundaries(bench, "compress"), **handler)
        around, _ = taken_by(
            bench, "sha256", boundaries(bench, "sha256")[: 256 - len(compress)], **handler
        )
        probes = compress + around
        assert len(listed(bench)) == 256
        run_case(bench, case(SHA))
        padding = bench.image.by_name["compress"].addr + 0x2E5  # the code jumps over it
        assert hits >= {p.at for p in compress} - {padding} | {around[0].at}
        bench.kprobes.unregister_kprobes(probes)
        assert_no_trace(bench)
        hits.clear()
        run_case(bench, case(SHA))
        assert hits == set()

    def test_a_257th_waits_for_a_pass_of_its_own_where_a_pass_is_limited(self, bench_of, profile):
        bench = bench_of(profile, many_functions(257))
        bench.kprobes.register_kprobes([Kprobe(symbol_name=f"f{i}") for i in range(257)])
        bench.kprobes.wait_for_kprobe_optimizer()
        assert bench.kprobes.optimizer.passes == (1 if profile.pass_max is None else 2)


class TestInsnBoundary:
    """kprobe_insn_boundary.tc: probes at offsets 0 to 255 of a function, one after the other."""

    @pytest.mark.parametrize(
        ("image", "symbol"),
        [("sha256.o", "compress"), ("qsort.o", "quicksort"), ("lz.o", "lz_decompress")],
    )
    def test_exactly_the_boundaries_take_a_probe_and_all_can_be_taken_away(
        self, bench_of, profile, image, symbol
    ):
        bench = bench_of(profile, elf(image))
        taken, refused = taken_by(bench, symbol, range(256))
        assert refused == {errno.EILSEQ}
        assert [p.offset for p in taken] == [
            offset for offset in boundaries(bench, symbol) if offset < 256
        ]
        assert bench.kprobes.unregister_kprobes(taken) == len(taken)
        assert_no_trace(bench)


class TestOptTypes:
    """kprobe_opt_types.tc: what `list` says of probes at the offsets 0 to 255 of a function."""

    def test_list_says_optimized_of_exactly_those_that_can_be_and_are_enabled(
        self, bench_of, profile
    ):
        bench = bench_of(profile, elf("sha256.o"))
        start = bench.image.by_name["compress"].addr
        offsets = [at for at in boundaries(bench, "compress") if at < 256]
        said: set[int] = set()
        for offset in offsets:
            p = Kprobe(symbol_name="compress", offset=offset)
            bench.kprobes.register_kprobe(p)
            bench.kprobes.wait_for_kprobe_optimizer()
            assert len(listed(bench)) == 1
            if listed(bench)[0].endswith("[OPTIMIZED]"):
                said.add(offset)
                assert bench.method(p) is Method.OPTIMIZED
            bench.kprobes.disable_kprobe(p)
            bench.kprobes.wait_for_kprobe_optimizer()
            assert listed(bench)[0].endswith("  [DISABLED]")
            bench.kprobes.unregister_kprobe(p)
        assert said == {
            at
            for at in offsets
            if isinstance(can_optimize(bench.arch.code, start + at), OptimizePlan)
        }
        assert 0 < len(said) < len(offsets)
        assert_no_trace(bench)

    def test_list_says_it_again_once_one_is_enabled_and_the_optimizer_has_come(
        self, bench_of, profile
    ):
        bench = bench_of(profile)
        p = Kprobe(symbol_name="f")
        bench.kprobes.register_kprobe(p)
        for change, says in (
            (bench.kprobes.disable_kprobe, "[DISABLED]"),
            (bench.kprobes.enable_kprobe, "[OPTIMIZED]"),
        ):
            change(p)
            bench.kprobes.wait_for_kprobe_optimizer()
            assert listed(bench)[0].endswith(f"  {says}")

    def test_a_return_probe_is_listed_by_its_letter(self, bench_of, profile):
        bench = bench_of(profile)
        bench.kprobes.register_kretprobe(Kretprobe(symbol_name="f"))
        assert listed(bench)[0].split()[1] == "r"


class TestMultiprobe:
    """kprobe_multiprobe.tc: several events are at one place."""

    @pytest.mark.parametrize("goes", [0, 1])
    def test_each_counts_and_removing_one_leaves_the_other(self, bench_of, profile, goes):
        bench = bench_of(profile, elf("sha256.o"))
        hits = [0, 0]

        def count(which: int) -> None:
            hits[which] += 1

        probes = [
            Kprobe(symbol_name="compress", pre_handler=lambda *_, n=n: count(n)) for n in (0, 1)
        ]
        bench.kprobes.register_kprobes(probes)
        run_case(bench, case(SHA))  # behind a breakpoint
        blocks = hits[0]
        assert hits == [blocks, blocks]
        assert blocks > 1
        bench.kprobes.wait_for_kprobe_optimizer()
        assert bench.method(probes[0]) is Method.OPTIMIZED
        run_case(bench, case(SHA))
        assert hits == [2 * blocks, 2 * blocks]
        bench.kprobes.unregister_kprobe(probes[goes])
        run_case(bench, case(SHA))
        assert (hits[goes], hits[1 - goes]) == (2 * blocks, 3 * blocks)
        bench.kprobes.unregister_kprobe(probes[1 - goes])
        assert_no_trace(bench)


class TestAddRemoveAndBusy:
    """add_and_remove.tc and busy_check.tc: a probe in use is not added again."""

    def test_one_probe_can_be_added_and_removed_again_and_again(self, bench_of, profile):
        bench = bench_of(profile, elf("sha256.o"))
        p = Kprobe(symbol_name="compress")
        for _ in range(3):
            p.addr, p.flags = None, KprobeFlag(0)
            bench.kprobes.register_kprobe(p)
            bench.kprobes.wait_for_kprobe_optimizer()
            assert bench.method(p) is Method.OPTIMIZED
            assert bench.kprobes.unregister_kprobe(p)
            assert_no_trace(bench)

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

    def test_a_place_whose_jump_still_stands_is_busy_in_2010_and_taken_over_by_6_1(
        self, bench_of, profile
    ):
        bench = bench_of(profile)
        old, new = Kprobe(symbol_name="f"), Kprobe(symbol_name="f")
        bench.kprobes.register_kprobe(old)
        bench.kprobes.wait_for_kprobe_optimizer()
        entry = bench.kprobes.get_kprobe(BASE)
        bench.kprobes.unregister_kprobe(old)
        if profile.rescues_unused:
            bench.kprobes.register_kprobe(new)
            assert bench.kprobes.get_kprobe(BASE) is entry
            assert bench.method(new) is Method.OPTIMIZED
        else:
            with pytest.raises(KprobeError) as refused:
                bench.kprobes.register_kprobe(new)
            assert refused.value.errno == errno.EBUSY
            assert not bench.kprobes.unregister_kprobe(new)
        bench.kprobes.unregister_kprobe(new)
        assert_no_trace(bench)


class TestFtraceSite:
    """kprobe_ftrace.tc and the last case of kprobe_syntax_errors.tc.

    A function begins with the call of a tracer.
    """

    @pytest.fixture
    def traced(self, bench_of, profile):
        image = asm_image(
            ".byte 0x0f, 0x1f, 0x44, 0x00, 0x00; mov eax, edi; add eax, 3; nop; nop; ret"
        )
        return bench_of(
            profile, replace(image, reserved=(Reserved(BASE, 5, ReservedKind.FTRACE_SITE),))
        )

    def test_takes_a_probe_that_is_hit_and_is_never_a_jump(self, traced, profile):
        hits: list[int] = []
        p = Kprobe(symbol_name="f", pre_handler=lambda _p, regs: hits.append(regs.ip))
        traced.kprobes.register_kprobe(p)
        traced.kprobes.wait_for_kprobe_optimizer()
        assert (traced.call("f", 4), len(hits)) == (7, 1)
        assert (traced.method(p) is Method.OPTIMIZED, "[OPTIMIZED]" in listed(traced)[0]) == (
            False,
            False,
        )
        assert ("[FTRACE]" in listed(traced)[0]) is profile.on_ftrace
        traced.kprobes.unregister_kprobe(p)
        assert_no_trace(traced)

    def test_takes_none_inside(self, traced):
        assert taken_by(traced, "f", range(1, 5)) == ([], {errno.EILSEQ})


class TestNonUniqueSymbol:
    """kprobe_non_uniq_symbol.tc: register_kprobe() itself takes the first function of a name."""

    def test_a_name_that_functions_share_means_the_first_of_them(self, bench_of, profile):
        image = asm_image("mov eax, 1; ret", "mov eax, 2; ret")
        image = replace(
            image, symbols=tuple(replace(symbol, name="same") for symbol in image.symbols)
        )
        bench = bench_of(profile, image)
        p = Kprobe(symbol_name="same")
        bench.kprobes.register_kprobe(p)
        assert p.at == BASE


class TestProbepoint:
    """probepoint.tc: places are given by address, and by symbol with an offset."""

    def test_an_address_and_a_symbol_with_an_offset_mean_the_same_place(self, bench_of, profile):
        bench = bench_of(profile, elf("sha256.o"))
        start = bench.image.by_name["sha256"].addr
        for offset in boundaries(bench, "sha256")[:20]:
            one, other = Kprobe(symbol_name="sha256", offset=offset), Kprobe(addr=start + offset)
            bench.kprobes.register_kprobes([one, other])
            assert one.at == other.at == start + offset
            assert [line.split()[2] for line in listed(bench)] == [f"sha256+{offset:#x}"] * 2
            bench.kprobes.unregister_kprobes([one, other])
        assert_no_trace(bench)

    def test_an_offset_may_lead_into_another_function_and_no_further_than_text(
        self, bench_of, profile
    ):
        bench = bench_of(profile, elf("sha256.o"))
        first, second = sorted(bench.image.functions, key=lambda symbol: symbol.addr)[:2]
        p = Kprobe(symbol_name=first.name, offset=second.addr - first.addr)
        bench.kprobes.register_kprobe(p)
        assert listed(bench)[0].split()[2] == f"{second.name}+0x0"
        with pytest.raises(KprobeError) as refused:
            bench.kprobes.register_kprobe(Kprobe(symbol_name=first.name, offset=1 << 31))
        assert refused.value.errno == (errno.ENOENT if profile.lookup_is_enoent else errno.EINVAL)


@pytest.mark.parametrize("count", [1, 3, 257])
def test_taking_n_jumps_away_stops_the_machine_or_syncs_as_often_as_the_profile(
    bench_of, profile, count
):
    batches = -(-count // 256)
    syncs, stops = (
        (3 * (batches if profile.pokes_together else count), 0)
        if profile.pokes_by_breakpoint
        else (0, batches)
    )
    bench = bench_of(profile, many_functions(count))
    probes = [Kprobe(symbol_name=f"f{i}") for i in range(count)]
    bench.kprobes.register_kprobes(probes)
    bench.kprobes.wait_for_kprobe_optimizer()
    stats = bench.plane.stats
    before = stats.syncs, stats.stop_machine
    bench.kprobes.unregister_kprobes(probes)
    bench.kprobes.wait_for_kprobe_optimizer()
    assert (stats.syncs - before[0], stats.stop_machine - before[1]) == (syncs, stops)
