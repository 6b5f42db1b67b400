"""The execution of guarded instructions that the host can have executed after all.

They are executed one at a time, with the text of their pages as it is without guards.
:mod:`arch_x86.emu.assist` says how each is mended.
"""

from __future__ import annotations

from arch_x86.emu.assist import Assist, assist_for
from arch_x86.emu.fetch_view import FetchView
from arch_x86.emu.guards import guard_reason
from arch_x86.emu.uc import UcInstance
from arch_x86.isa.constants import PAGE_SIZE
from arch_x86.isa.decode import decode
from arch_x86.isa.insn import NO_QUIRKS, Insn

__all__ = ("AssistedRun",)


class AssistedRun:
    """The execution of guarded instructions on one vCPU.

    :param alignment: instructions with a memory operand that has to be aligned are guarded, too.
    """

    __slots__ = ("_alignment", "_known", "_pages", "_uc")

    def __init__(self, uc: UcInstance, pages: FetchView, *, alignment: bool) -> None:
        self._uc = uc
        self._pages = pages
        self._alignment = alignment
        self._known: dict[tuple[int, bytes], tuple[Insn, Assist] | None] = {}

    def execute(self) -> bool:
        """Execute the guarded instruction at RIP, if there is a way.

        :returns: whether there is a way; :attr:`UcInstance.vector` then says whether the
            instruction retired.
        """
        uc, rip = self._uc, self._uc.rip
        found = self._assist_at(rip)
        if found is None:
            return False
        insn, assist = found
        present = self._pages.present
        numbers = {rip // PAGE_SIZE, (insn.end - 1) // PAGE_SIZE}
        pages = [present[vpn] for vpn in numbers if vpn in present]
        before = uc.new_context()
        uc.save(before)
        hidden = rip in uc.patched
        uc.patched.add(rip)
        for page in pages:
            self._pages.map_plain(page)
        uc.flush_tlb()
        uc.vector, uc.err = None, 0
        try:
            refused = assist(uc, insn, uc.start_one)
        finally:
            for page in pages:
                self._pages.map_guarded(page)
            if not hidden:
                uc.patched.discard(rip)
        if refused is not None:
            uc.restore(before)
            uc.rip, uc.vector = rip, refused
        uc.flush_tlb()
        return True

    def _assist_at(self, rip: int) -> tuple[Insn, Assist] | None:
        """Return the guarded instruction at ``rip`` and how it can be executed.

        :returns: None where there is no such instruction, or no way to execute it.
        """
        key = rip, self._pages.fetched(rip)
        if key not in self._known:
            self._known[key] = self._find_assist(rip, key[1])
        return self._known[key]

    def _find_assist(self, rip: int, code: bytes) -> tuple[Insn, Assist] | None:
        insn = decode(code, rip, NO_QUIRKS) if code else None
        if insn is None or guard_reason(insn, alignment=self._alignment) is None:
            return None
        assist = assist_for(insn)
        return None if assist is None else (insn, assist)
