"""This module keeps the slots and detour buffers, as kernel/kprobes.c keeps its two insn caches.

It answers to what is asked of kprobe_insn_slots and kprobe_optinsn_slots: which slots and detour
buffers are in use, by which probe, and what an address in one of them stands for.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import TYPE_CHECKING, Final

from arch_x86.isa.constants import INT3, PAGE_SIZE
from engine.core.insn_slots import SlotCache
from engine.core.safety_steps import SafetyStep
from engine.kprobe import AggrKprobe, Kprobe

if TYPE_CHECKING:
    from arch_x86.probes.jprobe_handlers import JprobeStub
    from arch_x86.text.space import TextSpace
    from engine.core.profiles import Profile

__all__ = ("COPY_SIZE", "DETOUR_SIZE", "Copies", "X86Areas")

COPY_SIZE: Final = 16
"""A copied instruction and the jump back behind it have this many bytes reserved."""
DETOUR_SIZE: Final = 192
"""A detour buffer has this many bytes reserved."""


@dataclass(frozen=True, slots=True)
class X86Areas:
    """This record has the addresses in the machine's own text that the arch layer needs.

    :ivar slots: where the slots lie: address, size in bytes.
    :ivar detours: where the detour buffers lie: address, size in bytes.
    :ivar callback: the stub that a detour buffer calls.
    :ivar trampoline: the stub that functions with a return probe return to.
    :ivar ftrace_caller: the stub that the call at an ftrace location calls.
    :ivar jprobe: the stub by which jumper probes return.
    :ivar slots_max: most slots, and detour buffers, in a page; None for as many as fit.
    """

    slots: tuple[int, int]
    detours: tuple[int, int]
    callback: int
    trampoline: int
    ftrace_caller: int
    jprobe: JprobeStub
    slots_max: int | None = None


class Copies:
    """This class has all copies of probed instructions in one machine's text.

    :param text: the machine's text.
    :param areas: where the slots and detour buffers go.
    :param profile: says what a slot holds.
    :param grace: waits for a grace period before dirty slots are used again.
    :ivar owner: the probe that each slot and each detour buffer in use belongs to, by address.
    """

    def __init__(
        self,
        text: TextSpace,
        areas: X86Areas,
        profile: Profile,
        grace: Callable[[str], None] | None,
    ) -> None:
        self._text = text
        self._areas = areas
        # Without this safety step, slots and detour buffers are used again at once.
        self._grace = grace if profile.has(SafetyStep.SLOT_REUSE_WAIT) else None
        self.slot_size = 2 * COPY_SIZE if profile.slot_has_both else COPY_SIZE
        self.slots = self._new_cache(areas.slots, self.slot_size)
        self.detours = self._new_cache(areas.detours, DETOUR_SIZE)
        self.owner: dict[int, Kprobe] = {}

    def _new_cache(self, area: tuple[int, int], slot_size: int) -> SlotCache:
        return SlotCache(
            *area,
            slot_size,
            PAGE_SIZE,
            self._add_page,
            self._drop_page,
            self._grace,
            self._areas.slots_max,
        )

    def _drop_page(self, addr: int) -> None:
        self._text.remove_page(addr // PAGE_SIZE)

    def _add_page(self, addr: int) -> None:
        self._text.add_page(addr // PAGE_SIZE, INT3 * PAGE_SIZE)

    def in_use(self, addr: int) -> bool:
        """Return True when ``addr`` lies in a slot or detour buffer that is in use."""
        base, size = self._areas.detours
        step, start = (
            (DETOUR_SIZE, base)
            if base <= addr < base + size
            else (self.slot_size, self._areas.slots[0])
        )
        page, offset = divmod(addr - start, PAGE_SIZE)
        return start + page * PAGE_SIZE + offset - offset % step in self.owner

    def watch_ranges(self) -> Iterator[tuple[int, int]]:
        """Yield the ranges (start, end) of copies in which it matters what others do meanwhile.

        An exploration has choice points there. They are each slot in use, the first byte of each
        detour buffer in use, and all behind its epilogue. The code between the two works on the
        stack and on registers alone, so none is needed there.
        """
        for start, p in self.owner.items():
            if (
                isinstance(p, AggrKprobe)
                and p.optinsn is not None
                and start == p.optinsn.detour.addr
            ):
                yield start, start + 1
                yield p.optinsn.copied, start + len(p.optinsn.detour.code)
            else:
                yield start, start + self.slot_size

    def original_ip(self, ip: int) -> int:
        """Return the address of the original instruction whose copy or detour buffer holds ``ip``.

        In a detour buffer that is the replaced instruction whose copy lies there, or the first one
        in front of the copies. Outside of slots and detour buffers it is ``ip`` itself.
        """
        for start, p in self.owner.items():
            if (
                isinstance(p, AggrKprobe)
                and p.optinsn is not None
                and start == p.optinsn.detour.addr
            ):
                if start <= ip < start + DETOUR_SIZE:
                    offset = ip - p.optinsn.copied
                    return p.at + offset if 0 <= offset < p.optinsn.detour.copied_len else p.at
            elif start <= ip < start + self.slot_size:
                return p.at
        return ip
