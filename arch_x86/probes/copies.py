"""Slots and detour buffers: which are in use, by which probe, and what an address in one of them
stands for. Answers to what kernel/kprobes.c asks of its two insn caches (kprobe_insn_slots,
kprobe_optinsn_slots).
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
    from arch_x86.probes.jprobe import JprobeStub
    from arch_x86.text.space import TextSpace
    from engine.core.profiles import Profile

__all__ = ("COPY_SIZE", "DETOUR_SIZE", "Copies", "X86Areas")

COPY_SIZE: Final = 16
"""Bytes reserved for one copied instruction and the jump back behind it."""
DETOUR_SIZE: Final = 192
"""Bytes reserved for a detour buffer."""


@dataclass(frozen=True, slots=True)
class X86Areas:
    """Where slots and detour buffers go (address, size in bytes), what a detour buffer calls, where
    probed functions return to, what ftrace calls, and how jumper probes return. ``slots_max``: most
    slots and detour buffers a page, fewer than fit.
    """

    slots: tuple[int, int]
    detours: tuple[int, int]
    callback: int
    trampoline: int
    ftrace_caller: int
    jprobe: JprobeStub
    slots_max: int | None = None


class Copies:
    """All copies of probed instructions in one machine's text.

    :param grace: waits for a grace period, before dirty slots are used again.
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
        """``addr`` lies in a slot or detour buffer that is in use."""
        base, size = self._areas.detours
        step, start = (
            (DETOUR_SIZE, base)
            if base <= addr < base + size
            else (self.slot_size, self._areas.slots[0])
        )
        page, offset = divmod(addr - start, PAGE_SIZE)
        return start + page * PAGE_SIZE + offset - offset % step in self.owner

    def watch_ranges(self) -> Iterator[tuple[int, int]]:
        """Where in slots and detour buffers in use it matters what others do meanwhile: each slot,
        the entry of each detour buffer, and all behind its epilogue. What lies between runs on the
        stack and on registers alone.
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
        """The probed instruction whose slot or detour buffer holds ``ip``, or in a detour the later
        one whose copy does; ``ip`` itself outside of both.
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
