"""Originals against copies in slots, without any probe: the slot's bytes as :func:`build_slot`
makes them, run where they were made for.
"""

from __future__ import annotations

from collections.abc import Iterator
from random import Random

from arch_x86.isa.insn import Branch, Insn
from arch_x86.probes import slot as slot_module
from arch_x86.probes.boost import can_boost, fits_jump_back
from arch_x86.probes.relocate import copy_refusal
from tests.equivalence.guest import Guest, Outcome, new_machine
from tests.equivalence.states import State, random_state
from tests.equivalence.world import Places, at_cell, cells_image, place

_SLOT_CELL = 48
_LEAVES = frozenset((Branch.RET, Branch.JMP_INDIRECT_REG, Branch.JMP_INDIRECT_MEM))
_STOPPED = "vector 3"


def has_free_copy(insn: Insn) -> bool:
    """True where a copy does all of the instruction's work by itself: no call, and no branch
    relative to where it stands.
    """
    return (
        copy_refusal(insn) is None
        and slot_module.fits_slot(insn)
        and (insn.branch is Branch.NONE or insn.branch in _LEAVES)
    )


class CopyBench:
    """Each of ``raws`` in a cell, and a copy below and a copy above, at any alignment, not quite 2
    GiB away.
    """

    def __init__(
        self, raws: list[bytes], pool, places: Places, *, worlds: int = 4, seed: int = 1
    ) -> None:
        random = Random(f"copies:{seed}")
        self.insns = [place(raw, at_cell(i, places), places) for i, raw in enumerate(raws)]
        self.boosted = [can_boost(insn) and fits_jump_back(insn) for insn in self.insns]
        self.slots: list[tuple[int, ...]] = []
        texts = {window: bytearray(b"\xcc" * _SLOT_CELL * len(raws)) for window in places.far}
        for i, insn in enumerate(self.insns):
            addresses: list[int] = []
            for window, text in texts.items():
                at = i * _SLOT_CELL + random.randrange(_SLOT_CELL - slot_module.SLOT_SIZE - 1)
                code = slot_module.build_slot(insn, window + at, self.boosted[i])
                text[at : at + len(code)] = code
                addresses.append(window + at)
            self.slots.append(tuple(addresses))
        image = cells_image(
            self.insns, places, copies=[(window, bytes(text)) for window, text in texts.items()]
        )
        self.machine = new_machine(image, pool)
        self.guest = Guest(self.machine, places, worlds=worlds, seed=seed)
        self._seed = seed

    def states(self, number: int, count: int) -> Iterator[State]:
        """``count`` states for instruction ``number``."""
        insn, guest = self.insns[number], self.guest
        for turn in range(count):
            yield random_state(
                insn, Random(f"{self._seed}:{insn.raw.hex()}:{turn}"), guest.places, guest.bases
            )

    def original(self, number: int, world: int, state: State) -> Outcome:
        """The original, up to the ``hlt`` behind it."""
        insn = self.insns[number]
        self.guest.start(world, state, insn.addr)
        outcome = self.guest.run()
        if outcome.rip == insn.end + 1 and not outcome.fault:
            return outcome._replace(rip=insn.end)
        return outcome

    def copy(self, number: int, which: int, world: int, state: State) -> Outcome:
        """A copy, and the way back to the original's ``hlt`` where it has one; told as if it were
        the original.
        """
        insn, slot = self.insns[number], self.slots[number][which]
        self.guest.start(world, state, slot)
        outcome = self.guest.run().seen_from(slot, insn.addr)
        if self.boosted[number]:
            if outcome.rip == insn.end + 1 and not outcome.fault:  # one more retired: the jump back
                return outcome._replace(rip=insn.end, retired=outcome.retired - 1)
        elif (
            outcome.fault == _STOPPED and outcome.rip == slot + insn.length + 1
        ):  # int3 retired where the original's hlt did
            return outcome._replace(rip=insn.end, fault="")
        return outcome

    def difference(self, number: int, which: int, world: int, state: State) -> str:
        """What the copy did otherwise; "" when nothing."""
        return self.compare(number, which, world, state, self.original(number, world, state))

    def compare(self, number: int, which: int, world: int, state: State, want: Outcome) -> str:
        """The same, with the original's outcome known."""
        got = self.copy(number, which, world, state)
        found = self.guest.explain(got, want)
        return (
            f"{self.insns[number].raw.hex(' ')} ({self.insns[number].text}) world {world} copy"
            f" {which}: {found}"
            if found
            else ""
        )
