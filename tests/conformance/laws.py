"""The laws that hold of each architecture that the core runs on.

The author of an architecture derives a class from :class:`ArchLaws` and gives it a :class:`Lab`.
The laws hold for a function f that adds a constant to its argument, without another probe, in every
profile.
"""

from __future__ import annotations

from typing import Any, Protocol

import pytest

from engine.core.global_switches import set_kprobes_enabled, set_kprobes_optimization
from engine.core.kprobes import Kprobes
from engine.core.profiles import PROFILES
from engine.errors import KprobeError
from engine.instrument import Instrument
from engine.kprobe import AggrKprobe, Kprobe
from engine.kretprobe import Kretprobe


class Lab(Protocol):
    """A machine of the architecture with one function in it.

    :ivar kprobes: the core, with the architecture's layer.
    :ivar function: the function's name; f(n) = f(0) + n.
    :ivar site: the offset of an instruction that a jump can replace, and that a call executes once.
    :ivar neighbour: the offset of another instruction that a jump at ``site`` replaces, behind the
        first.
    :ivar inside: the offset of a byte that is the first of no instruction.
    """

    kprobes: Kprobes
    function: str
    site: int
    neighbour: int
    inside: int

    def text(self) -> bytes:
        """The function's bytes as they are now."""
        ...

    def call(self, argument: int) -> int:
        """Call the function with ``argument``, and return its result."""
        ...

    def call_in_handler(self, argument: int) -> int:
        """Call the function from a handler that runs, and return its result."""
        ...

    def copies(self) -> int:
        """The number of slots and detour buffers in use."""
        ...


class ArchLaws:
    """The laws. The fixture ``lab`` gives the architecture's :class:`Lab`."""

    @pytest.fixture(params=PROFILES, ids=lambda profile: profile.name)
    def profile(self, request):
        return request.param

    @pytest.fixture
    def was(self, lab: Lab) -> bytes:
        return lab.text()

    @pytest.fixture
    def unprobed(self, lab: Lab) -> int:
        return lab.call(0)

    def put(
        self, lab: Lab, offset: int | None = None, **fields: Any
    ) -> tuple[Kprobe, list[Kprobe]]:
        hits: list[Kprobe] = []
        fields.setdefault("pre_handler", lambda p, _regs: hits.append(p) or 0)
        p = Kprobe(
            symbol_name=lab.function, offset=lab.site if offset is None else offset, **fields
        )
        lab.kprobes.register_kprobe(p)
        return p, hits

    def settle(self, lab: Lab) -> None:
        lab.kprobes.wait_for_kprobe_optimizer()

    def entry(self, lab: Lab, p: Kprobe) -> AggrKprobe:
        found = lab.kprobes.get_kprobe(p.at)
        assert isinstance(found, AggrKprobe)
        return found

    def test_a_probe_changes_its_site_alone_and_what_is_unregistered_leaves_nothing(
        self, lab: Lab, was: bytes
    ):
        p, _ = self.put(lab)
        self.settle(lab)
        now = lab.text()
        assert now != was
        optinsn = self.entry(lab, p).optinsn
        assert optinsn is not None
        outside = [at for at in range(len(was)) if not self.within(lab, p, at)]
        assert [now[at] for at in outside] == [was[at] for at in outside]
        assert lab.copies() == 2  # a slot and a detour buffer
        lab.kprobes.unregister_kprobe(p)
        self.settle(lab)
        assert (lab.text(), lab.copies(), lab.kprobes.kprobe_table) == (was, 0, {})

    def within(self, lab: Lab, p: Kprobe, at: int) -> bool:
        start = p.at - lab.site
        return lab.kprobes.arch.arch_within_optimized_kprobe(self.entry(lab, p), start + at)

    @pytest.mark.parametrize("optimized", [False, True])
    def test_each_pass_is_one_hit_and_the_function_does_what_it_did(
        self, lab: Lab, unprobed: int, optimized: bool
    ):
        lab.kprobes.kprobes_allow_optimization = optimized
        p, hits = self.put(lab)
        self.settle(lab)
        assert (self.entry(lab, p).optimized, lab.call(5), hits, p.nmissed) == (
            optimized,
            unprobed + 5,
            [p],
            0,
        )

    def test_a_breakpoint_and_its_jump_have_different_text(self, lab: Lab, was: bytes):
        self.put(lab)
        armed = lab.text()
        self.settle(lab)
        assert len({was, armed, lab.text()}) == 3

    def test_a_post_handler_runs_once_a_hit_and_keeps_the_jump_off(self, lab: Lab, unprobed: int):
        posts: list[int] = []
        p, hits = self.put(lab, post_handler=lambda *_: posts.append(1))
        self.settle(lab)
        assert (self.entry(lab, p).optimized, lab.call(1), len(hits), posts) == (
            False,
            unprobed + 1,
            1,
            [1],
        )

    @pytest.mark.parametrize("optimized", [False, True])
    def test_probes_at_one_address_run_newest_first(self, lab: Lab, optimized: bool):
        lab.kprobes.kprobes_allow_optimization = optimized
        order: list[str] = []
        for name in "ab":
            self.put(lab, pre_handler=lambda _p, _regs, name=name: order.append(name))
        self.settle(lab)
        lab.call(0)
        assert order == ["b", "a"]

    def test_a_neighbour_in_the_replaced_bytes_keeps_the_jump_off_until_it_is_gone(
        self, lab: Lab, unprobed: int
    ):
        p, hits = self.put(lab)
        self.settle(lab)
        q, others = self.put(lab, lab.neighbour)
        self.settle(lab)
        assert (self.entry(lab, p).optimized, lab.call(2), hits, others) == (
            False,
            unprobed + 2,
            [p],
            [q],
        )
        lab.kprobes.disable_kprobe(q)
        lab.kprobes.unregister_kprobe(q)
        self.settle(lab)
        assert (lab.call(2), hits, others) == (unprobed + 2, [p, p], [q])

    def test_a_probe_with_another_in_the_bytes_of_its_jump_stays_a_breakpoint(
        self, lab: Lab, unprobed: int
    ):
        q, others = self.put(lab, lab.neighbour)
        p, hits = self.put(lab)
        self.settle(lab)
        assert (self.entry(lab, p).optimized, lab.call(2), hits, others) == (
            False,
            unprobed + 2,
            [p],
            [q],
        )

    def test_a_disabled_probe_has_no_hits_and_its_text_is_the_original(
        self, lab: Lab, was: bytes, unprobed: int
    ):
        p, hits = self.put(lab)
        self.settle(lab)
        lab.kprobes.disable_kprobe(p)
        self.settle(lab)
        assert (lab.text(), lab.call(0), hits) == (was, unprobed, [])
        lab.kprobes.enable_kprobe(p)
        self.settle(lab)
        assert (lab.call(0), hits) == (unprobed, [p])

    def test_a_jump_that_waits_to_be_undone_runs_no_handler_of_a_disabled_probe(
        self, lab: Lab, unprobed: int
    ):
        p, hits = self.put(lab)
        self.settle(lab)
        lab.kprobes.disable_kprobe(p)
        assert (lab.call(0), hits) == (unprobed, [])

    def test_the_switch_for_optimization_undoes_jumps_and_brings_them_back(
        self, lab: Lab, unprobed: int
    ):
        p, hits = self.put(lab)
        armed = lab.text()
        self.settle(lab)
        jump = lab.text()
        set_kprobes_optimization(lab.kprobes, on=False)
        assert lab.text() == armed
        set_kprobes_optimization(lab.kprobes, on=True)
        self.settle(lab)
        assert (lab.text(), lab.call(0), hits) == (jump, unprobed, [p])

    def test_the_switch_for_all_probes_takes_every_breakpoint_away_and_puts_it_back(
        self, lab: Lab, was: bytes
    ):
        p, hits = self.put(lab)
        set_kprobes_enabled(lab.kprobes, on=False)
        lab.call(0)
        assert (lab.text(), hits) == (was, [])
        set_kprobes_enabled(lab.kprobes, on=True)
        self.settle(lab)
        lab.call(0)
        assert hits == [p]

    def test_a_place_inside_an_instruction_or_outside_of_text_is_refused_unchanged(
        self, lab: Lab, was: bytes
    ):
        for fields in ({"symbol_name": lab.function, "offset": lab.inside}, {"addr": 1 << 40}):
            with pytest.raises(KprobeError):
                lab.kprobes.register_kprobe(Kprobe(**fields))
        assert (lab.text(), lab.copies(), lab.kprobes.kprobe_table) == (was, 0, {})

    @pytest.mark.parametrize("optimized", [False, True])
    def test_a_hit_in_what_a_handler_calls_is_missed_and_counted(
        self, lab: Lab, unprobed: int, optimized: bool
    ):
        lab.kprobes.kprobes_allow_optimization = optimized
        answers: list[int] = []
        told: list[Kprobe] = []

        class Watch(Instrument):
            def missed(self, p: Kprobe) -> None:
                told.append(p)

        lab.kprobes.instruments.append(Watch())
        p, _ = self.put(lab, pre_handler=lambda *_: answers.append(lab.call_in_handler(3)))
        self.settle(lab)
        assert (lab.call(1), answers, p.nmissed, told) == (unprobed + 1, [unprobed + 3], 1, [p])

    def test_an_aggregator_is_told_of_before_it_is_in_the_table(self, lab: Lab):
        told: list[tuple[bool, bool]] = []

        class Watch(Instrument):
            def aggregator_made(self, op: AggrKprobe) -> None:
                told.append((op.optready, lab.kprobes.get_kprobe(op.at) is op))

        lab.kprobes.instruments.append(Watch())
        self.put(lab)
        assert told == [(True, False)]

    def test_a_return_probe_runs_at_entry_and_return_and_the_call_returns_where_it_would(
        self, lab: Lab, unprobed: int
    ):
        order: list[str] = []
        rp = Kretprobe(
            symbol_name=lab.function,
            entry_handler=lambda *_: order.append("entry") or 0,
            handler=lambda *_: order.append("return") or 0,
        )
        lab.kprobes.register_kretprobe(rp)
        self.settle(lab)
        assert (lab.call(4), order, rp.nmissed) == (unprobed + 4, ["entry", "return"], 0)
        lab.kprobes.unregister_kretprobe(rp)
        self.settle(lab)
        assert (lab.call(4), len(order)) == (unprobed + 4, 2)

    def test_slots_and_detour_buffers_are_used_again(self, lab: Lab, was: bytes):
        for _ in range(20):
            p, _ = self.put(lab)
            self.settle(lab)
            lab.kprobes.unregister_kprobe(p)
            self.settle(lab)
        assert (lab.text(), lab.copies()) == (was, 0)
