"""The fetch view of one vCPU: the pages of its text version, in its page tables."""

from __future__ import annotations

from arch_x86.emu.frames import FrameStore
from arch_x86.emu.memory import PageTables
from arch_x86.emu.private_state import PrivateState
from arch_x86.emu.uc import UcInstance
from arch_x86.isa.constants import MAX_INSN_SIZE, PAGE_SIZE
from arch_x86.text.text_version import TextPage, TextVersion

__all__ = ("FetchView",)


class FetchView:
    """The text that vCPU ``index`` finds in its page tables.

    A page of the image's text appears in them when it is first executed or read: of a library, few
    ever are, and each costs a look for what must trap. The machine's own text is there at once, so
    that CR2 stays as a guest's page fault set it.

    :ivar present: the pages that the page tables hold, by virtual page number.
    :ivar waiting: the pages that appear when they are first used.
    :ivar stray_addrs: where instructions to guard may start outside of functions, in the order in
        which they became known.
    """

    __slots__ = (
        "_frames",
        "_index",
        "_lazy",
        "_private",
        "_shown",
        "_strays",
        "_tables",
        "_uc",
        "present",
        "stray_addrs",
        "waiting",
    )

    def __init__(
        self,
        index: int,
        uc: UcInstance,
        tables: PageTables,
        frames: FrameStore,
        private: PrivateState,
    ) -> None:
        self._index = index
        self._uc = uc
        self._tables = tables
        self._frames = frames
        self._private = private
        self._lazy = private.tells_fetches
        self._shown: TextVersion | None = None
        self._strays: dict[int, dict[int, bytes]] = {}
        self.stray_addrs: list[int] = []
        self.present: dict[int, TextPage] = {}
        self.waiting: dict[int, TextPage] = {}

    def show(self, version: TextVersion) -> None:
        """Make the page tables agree with ``version``."""
        frames = self._frames
        for page in version.changes_from(self._shown):
            if not page.content:
                self._hide(page.vpn)
            elif page.vpn in self.present or not (self._lazy and frames.guards.concern(page.vpn)):
                self._show(page)
            else:
                self.waiting[page.vpn] = page
        if self._shown is not None:
            for page in version.lacks(self._shown):
                self._hide(page.vpn)
        self._shown = version
        self._uc.flush_tlb()

    def show_waiting(self) -> None:
        """Show all pages that wait to be used.

        Without a count Unicorn may leave its loop at a fault that it does not report.
        """
        if not self.waiting:
            return
        for page in self.waiting.values():
            self._show(page)
        self.waiting.clear()
        self._uc.flush_tlb()

    def page_in(self, began: int) -> int | None:
        """Show the page whose absence ended a run in which ``began`` instructions began.

        :returns: how many instructions retired; None when the fault is the guest's own.
        """
        page = self.waiting.pop(self._uc.cr2 // PAGE_SIZE, None)
        if page is None:
            return None
        # Nothing of a block has begun whose text can't be fetched; an instruction that can't load
        # has begun.
        retired = began if self._private.was_fetch() else began - 1
        self._private.forget_exception()
        self._show(page)
        return retired

    def fetched(self, addr: int) -> bytes:
        """Return the text at ``addr`` as this vCPU sees it, without guards.

        It is enough for an instruction, or less where text ends.
        """
        vpn, offset = divmod(addr, PAGE_SIZE)
        first = self.present.get(vpn)
        second = self.present.get(vpn + 1) or self.waiting.get(vpn + 1)
        if first is None:
            return b""
        code = first.content[offset : offset + MAX_INSN_SIZE]
        return code if second is None else code + second.content[: MAX_INSN_SIZE - len(code)]

    def map_guarded(self, page: TextPage) -> None:
        """Map the frame of ``page`` in which guarded instructions trap.

        The caller flushes the TLB.
        """
        self._tables.map_code(self._index, page.vpn, self._frames.frame(page))

    def map_plain(self, page: TextPage) -> None:
        """Map the frame of ``page`` that holds its text as it is. The caller flushes the TLB."""
        self._tables.map_code(self._index, page.vpn, self._frames.plain(page))

    def _hide(self, vpn: int) -> None:
        self.waiting.pop(vpn, None)
        if self.present.pop(vpn, None) is not None:
            self._tables.unmap(self._index, vpn)

    def _show(self, page: TextPage) -> None:
        strays = self._strays.get(page.vpn)
        if strays is None:
            strays = self._strays[page.vpn] = self._frames.guards.strays(page.vpn)
            for addr in strays:
                self._uc.hooks.trap_at(addr)
                self.stray_addrs.append(addr)
        patched = self._uc.patched
        for addr, raw in strays.items():
            offset = addr % PAGE_SIZE
            if raw.startswith(page.content[offset : offset + len(raw)]):
                patched.discard(addr)
            else:
                patched.add(addr)
        self.present[page.vpn] = page
        self.map_guarded(page)
