"""What must hold behind each poke and each restore is looked at: each invariant is broken once
here, and is reported.
"""

from __future__ import annotations

import pytest

from arch_x86.emu.machine import Machine
from arch_x86.explore.memory_port import X86Memory
from arch_x86.explore.open_experiment import open_experiment
from arch_x86.explore.scenarios import life
from arch_x86.explore.text_port import X86Text
from arch_x86.isa.constants import INT3
from arch_x86.text.poke import StopMachinePoke, TextPokeBp, TextPokeParam
from arch_x86.text.poke_batch import TextPokeBpBatch
from arch_x86.text.text_version import TextStore
from engine.core.ablation import without
from engine.core.profiles import LINUX_2010
from engine.errors import EngineBug
from engine.kprobe import Kprobe
from engine.search.actor import actor_from
from tests.conftest import BASE
from tests.explore.experiments import experiment_of

JUMP = b"\xe9\x01\x02\x03\x04"
PROTOCOLS = pytest.mark.parametrize("make", [StopMachinePoke, TextPokeBp, TextPokeBpBatch])
BEHIND_BREAKPOINTS = pytest.mark.parametrize("make", [TextPokeBp, TextPokeBpBatch])


def jump(data: bytes = JUMP, addr: int = BASE) -> TextPokeParam:
    return TextPokeParam(addr, data, "test")


class Plane:
    """A control plane without CPUs. ``synced``: called at each core sync."""

    def __init__(self, synced=lambda: None) -> None:
        self.synced = synced

    def stop_machine(self, fn, why: str) -> None:
        fn()

    def text_poke_sync(self, why: str) -> None:
        self.synced()

    def traps_over(self, why: str) -> None:
        pass


@pytest.fixture
def text(rig):
    return rig("mov eax, edi; add eax, 3; nop; nop; ret").machine.text


class TestPokes:
    @PROTOCOLS
    def test_whole_ones_are_not_reported(self, text, make):
        poke = make(text, Plane())
        before = text.read(BASE, 5)
        poke.text_poke_jumps([jump()])
        assert text.read(BASE, 5) == JUMP
        poke.text_poke_breakpoints([jump(INT3 + before[1:])])
        poke.text_poke_bytes([jump(before[:1])])
        assert text.read(BASE, 5) == before

    @PROTOCOLS
    def test_that_overlap_are_left_to_the_oracles(self, text, make):
        make(text, Plane()).text_poke_jumps([jump(), jump(addr=BASE + 3)])
        assert text.read(BASE, 3) == JUMP[:3]

    @PROTOCOLS
    @pytest.mark.parametrize("data", [b"", JUMP + b"\x05\x06"])
    def test_of_no_byte_or_more_than_six_are_refused_before_any_is_written(self, text, make, data):
        poke, before = make(text, Plane()), text.writes
        for write in (poke.text_poke_jumps, poke.text_poke_breakpoints):
            with pytest.raises(EngineBug, match=f"a poke of {len(data)} bytes; it takes 1 to 6"):
                write([jump(), jump(data)])
        with pytest.raises(EngineBug, match="a poke of 5 bytes; it takes 1 to 1"):
            poke.text_poke_bytes([jump()])
        assert text.writes == before

    @PROTOCOLS
    @pytest.mark.parametrize(
        "write",
        [
            lambda poke: poke.text_poke(BASE, b"\x90", "test"),
            lambda poke: poke.text_poke_bytes([jump(INT3)]),
            lambda poke: poke.text_poke_jumps([jump()]),
            lambda poke: poke.text_poke_breakpoints([jump(INT3 + JUMP[1:])]),
        ],
        ids=["slot", "bytes", "jumps", "breakpoints"],
    )
    def test_that_leave_other_bytes_are_reported(self, text, make, write, monkeypatch):
        monkeypatch.setattr(TextStore, "write", lambda self, version, addr, data: version)
        monkeypatch.setattr(TextStore, "write_many", lambda self, version, writes: version)
        with pytest.raises(EngineBug, match=r"behind a poke of|not a breakpoint"):
            write(make(text, Plane()))

    def test_that_stop_machine_does_not_run_are_reported(self, text):
        plane = Plane()
        plane.stop_machine = lambda fn, why: None
        with pytest.raises(EngineBug, match="behind a poke of e901020304"):
            StopMachinePoke(text, plane).text_poke_jumps([jump()])

    @PROTOCOLS
    def test_that_a_vcpu_does_not_fetch_are_reported(self, text, make, monkeypatch):
        monkeypatch.setattr(Machine, "text_written", lambda self, write, version: None)
        with pytest.raises(EngineBug, match="CPU 0 does not fetch the text as it is now"):
            make(text, Plane()).text_poke_jumps([jump()])

    @pytest.mark.parametrize("data", [JUMP, INT3 + JUMP[1:]], ids=["in", "out"])
    def test_whose_tail_would_change_behind_no_breakpoint_are_reported(self, text, data):
        def lose_the_breakpoint():
            text.write(BASE, b"\x90", reason="a fault")

        poke = TextPokeBp(text, Plane(lose_the_breakpoint))
        write = poke.text_poke_jumps if data == JUMP else poke.text_poke_breakpoints
        before = text.read(BASE + 1, 4)
        with pytest.raises(EngineBug, match="90 at 0x10000000, not a breakpoint"):
            write([jump(data)])
        assert text.read(BASE + 1, 4) == before

    @BEHIND_BREAKPOINTS
    def test_within_a_poke_are_reported(self, text, make):
        plane = Plane()
        poke = make(text, plane)
        plane.synced = lambda: poke.text_poke_jumps([jump(addr=BASE + 8)])
        with pytest.raises(EngineBug, match="is under way"):
            poke.text_poke_jumps([jump()])

    def test_of_who_is_told_of_a_write_are_reported(self, text):
        def write_once(_write):
            text.listeners.clear()
            text.write(BASE + 1, b"\x90", reason="a fault")

        text.listeners.append(write_once)
        with pytest.raises(EngineBug, match="text was written while a write was told of"):
            text.write(BASE, b"\x90", reason="test")


class Meddler:
    """A participant of snapshots that does something to the machine when it is restored."""

    def __init__(self, meddle) -> None:
        self._meddle = meddle

    def save_state(self) -> None:
        return None

    def restore_state(self, _state) -> None:
        self._meddle()


class TestSnapshots:
    def test_that_were_released_are_not_restored(self, workbench):
        machine = workbench("nop; ret").machine
        snap = machine.snapshot()
        machine.restore(snap)
        machine.release(snap)
        with pytest.raises(EngineBug, match="that was released"):
            machine.restore(snap)
        machine.restore(machine.snapshot())

    def test_of_another_machine_are_not_restored(self, workbench):
        snap = workbench("nop; ret").machine.snapshot()
        with pytest.raises(EngineBug, match="is another machine's"):
            workbench("nop; ret").machine.restore(snap)

    def test_that_leave_a_vcpu_elsewhere_are_reported(self, workbench):
        machine = workbench("nop; ret").machine
        machine.participants.append(Meddler(lambda: setattr(machine.cpus[0], "rip", 1)))
        with pytest.raises(EngineBug, match=r"CPU 0 stands at .*; it was restored to"):
            machine.restore(machine.snapshot())

    @pytest.mark.parametrize("keep_text", [False, True])
    def test_that_leave_a_vcpu_another_text_are_reported(self, workbench, keep_text):
        bench = workbench("nop; nop; ret")
        machine = bench.machine
        before = machine.text.current
        bench.kprobes.register_kprobe(Kprobe(addr=BASE))
        machine.participants.append(Meddler(lambda: setattr(machine.cpus[0], "view", before)))
        with pytest.raises(EngineBug, match="CPU 0 does not fetch the text as it is now"):
            machine.restore(machine.snapshot(), keep_text=keep_text)


@pytest.fixture
def exploration(pool):
    system = open_experiment(experiment_of(life.register, without(LINUX_2010, frozenset())), pool)
    system.reset()
    yield system
    system.close()


class TestStatesOfAnExploration:
    def test_that_were_released_are_not_gone_back_to(self, exploration):
        state = exploration.save()
        exploration.restore(state)
        exploration.release(state)
        with pytest.raises(EngineBug, match="whose room may be in use"):
            exploration.restore(state)

    def test_that_leave_a_vcpu_elsewhere_are_reported(self, exploration, monkeypatch):
        state, restore = exploration.save(), X86Memory.restore

        def a_byte_further(memory, saved):
            restore(memory, saved)
            memory._machine.cpus[0].rip += 1

        monkeypatch.setattr(X86Memory, "restore", a_byte_further)
        with pytest.raises(EngineBug, match=r"CPU 0 stands at .*; it was restored to"):
            exploration.restore(state)

    def test_that_leave_a_vcpu_another_text_are_reported(self, exploration, monkeypatch):
        before, state = exploration.save(), exploration.save()
        while state.node.version is before.node.version:
            exploration.take(actor_from("c0"))
            state = exploration.save()
        exploration.restore(before)
        monkeypatch.setattr(X86Memory, "restore", lambda memory, saved: None)
        monkeypatch.setattr(X86Text, "show", lambda text, state, version: None)
        with pytest.raises(EngineBug, match="CPU 0 does not fetch the text as it is now"):
            exploration.restore(state)
