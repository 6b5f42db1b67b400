"""The counting of instructions by blocks, which costs a tenth of a callback for each instruction.

It answers to no kernel file: it stands for the counter of retired instructions that a processor has
(SDM vol. 3, 20.2). The emulator translates guest code in blocks, which are entered at their first
instruction only. The host's machine code (:mod:`arch_x86.emu.host_code`) adds the number of a
block's instructions when the block begins; the emulator itself says what that number is. So the
count is exact at the end of each block, and an exception in the middle of one is put right by the
decoder. A run ends in front of the block in which its limit lies.

What a block is depends on the text, so the table of blocks is emptied when the text changes.
"""

from __future__ import annotations

import ctypes
import mmap
from collections.abc import Callable
from ctypes import addressof, c_void_p, cast
from typing import Final

from arch_x86.emu.guards import find_guard
from arch_x86.emu.host_code import (
    BLOCK_WORDS,
    ENTRIES,
    ENTRY_WORDS,
    BlockWord,
    HostCode,
    block_key,
    block_of,
    entry_of,
)
from arch_x86.emu.libunicorn import BLOCK_CALLBACK, emu_stop, find_block, host_address
from arch_x86.emu.uc import UcInstance

__all__ = ("BLOCK_MAX", "MISSED", "BlockCounter")

BLOCK_MAX: Final = 512
"""The most instructions of one block (TCG_MAX_INSNS)."""
_LEFT, _LAST, _STOPPED = BlockWord.LEFT, BlockWord.LAST, BlockWord.STOPPED


class BlockCounter:
    """The counter of one instance, in which nothing has been executed yet.

    :ivar words: what the host's machine code works on, by :class:`BlockWord`.
    :ivar failed: the error of a callback, which could not be raised there.
    :ivar lost: the emulator has stopped in front of a block whose instructions it does not tell, so
        that nothing can be counted any more.
    """

    __slots__ = (
        "_handle",
        "_keep",
        "_known",
        "_limit",
        "_room",
        "_table",
        "failed",
        "lost",
        "words",
    )

    def __init__(self, uc: UcInstance, code: HostCode) -> None:
        self._handle = uc.handle
        self.failed: BaseException | None = None
        self.lost = False
        self._known: dict[int, int] = {}
        self._limit = 0
        self._room = mmap.mmap(-1, 8 * ENTRY_WORDS * ENTRIES, mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS)
        self._table = memoryview(self._room).cast("Q")
        words = (ctypes.c_uint64 * BLOCK_WORDS)()
        missed = BLOCK_CALLBACK(self.missed)
        words[BlockWord.TABLE] = addressof(ctypes.c_char.from_buffer(self._room))
        words[BlockWord.MISSED] = cast(missed, c_void_p).value or 0
        words[BlockWord.STOP] = host_address("uc_emu_stop")
        self.words = memoryview(words).cast("B").cast("Q")
        self._keep = (words, missed, code)
        uc.hooks.count_blocks(code.block, addressof(words))

    def begin(self, limit: int) -> None:
        """Count from 0, and stop in front of the block that would count past ``limit``."""
        words = self.words
        words[_LAST] = words[_STOPPED] = 0
        words[_LEFT] = self._limit = limit

    @property
    def count(self) -> int:
        """The instructions of all blocks that have begun, and those that hits have added."""
        return self._limit - self.words[_LEFT]

    @property
    def stopped(self) -> bool:
        """Whether the limit has stopped the run, whose next block is at RIP."""
        return bool(self.words[_STOPPED])

    def forget(self) -> None:
        """Forget all blocks, since the text has changed."""
        self._known.clear()
        if hasattr(mmap, "MADV_DONTNEED"):  # The pages are full of zeros from now on.
            self._room.madvise(mmap.MADV_DONTNEED)
        else:
            self._room[:] = bytes(len(self._room))

    def began(self, rip: int, fetched: Callable[[int], bytes]) -> int:
        """Return how many instructions began, of a run that a fault at ``rip`` has ended.

        :param fetched: returns the text at an address, of at least one instruction.
        """
        if not self.is_in(rip):  # Nothing has begun behind the last block.
            return self.count
        last = self.words[_LAST]
        start, size = block_of(last)
        before = 0
        at = start
        while at < rip:
            at += find_guard(fetched(at), at)[0] or size
            before += 1
        assert at == rip, f"the emulator stopped within an instruction, at {rip:#x}"
        return self.count - self._known[last] + before + 1

    def is_in(self, rip: int) -> bool:
        """Return whether ``rip`` is in the last block that has begun."""
        start, size = block_of(self.words[_LAST])
        return start <= rip < start + size

    def is_behind(self, rip: int) -> bool:
        """Return whether ``rip`` is right behind the last block that has begun."""
        return sum(block_of(self.words[_LAST])) == rip

    def close(self) -> None:
        """Give the table back; no run may follow."""
        self._table.release()

    def missed(self, _uc: int, address: int, size: int, _data: int) -> None:
        """Enter the block at ``address`` in the table, and count it. The host's code calls this."""
        try:
            if self._count(address, size):
                return
        except BaseException as error:  # It would be lost here.
            self.failed = error
        emu_stop(self._handle)

    def _count(self, address: int, size: int) -> bool:
        """Do as the host's code does, for a block that is new; return False to stop the run."""
        real, count = find_block(self._handle, address)
        if real != size or not count:
            self.lost = True
            return False
        words = self.words
        key = block_key(address, size)
        at = ENTRY_WORDS * entry_of(key)
        self._known[key] = self._table[at + 1] = count
        self._table[at] = key
        if count > words[_LEFT]:
            words[_STOPPED] = 1
            return False
        words[_LEFT] -= count
        words[_LAST] = key
        return True


MISSED: Final = BlockCounter.missed.__code__
"""The code of the callback that the emulator calls."""
