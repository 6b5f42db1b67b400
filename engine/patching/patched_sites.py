"""The record of a site whose code a patch protocol replaces, for ``optprobe patch``."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from enum import StrEnum

from engine.brief import described

__all__ = ("PatchedSite", "TextIs")


class TextIs(StrEnum):
    """How far the patch protocol has come, as it says itself."""

    OLD = "old"
    """The sites have their old code: the protocol has not begun, or is done with putting it back.
    """
    CHANGING = "changing"
    """The protocol is at work."""
    NEW = "new"
    """The sites have their new code: the protocol is done."""


@dataclass(frozen=True, slots=True)
class PatchedSite:
    """A site has old code, which a patch protocol replaces by new code, and maybe puts back.

    :ivar addr: the address of the first byte.
    :ivar old: the old code, whole instructions.
    :ivar new: the new code, as many bytes as ``old`` has.
    :ivar again: the code that is there when the old code was put back: the old code, or what does
        the same.
    :ivar replaces: the old instructions, as an assembler writes them.
    :ivar insns: by address, the instructions that are whole there, in the old code or the new.
    :ivar functions: of a static call, the names of the functions that the old code and the new code
        call.
    :ivar guards: the jumps to themselves that the patch protocol puts over the first bytes.
    """

    addr: int
    old: bytes
    new: bytes
    again: bytes
    insns: Mapping[int, frozenset[bytes]]
    functions: tuple[str, str] | None = None
    guards: tuple[bytes, ...] = ()
    replaces: tuple[str, ...] = ()

    def __repr__(self) -> str:
        return described(self, f"{self.addr:#x}", f"{self.old.hex()} -> {self.new.hex()}")

    @property
    def end(self) -> int:
        """Return the address behind the site."""
        return self.addr + len(self.old)

    def first(self, code: bytes) -> bytes:
        """Return the first instruction of ``code``, which is the old code or the new."""
        return max((one for one in self.insns[self.addr] if code.startswith(one)), key=len)

    def starts(self, code: bytes) -> frozenset[int]:
        """Return where instructions of ``code`` begin behind its first one.

        :param code: the old code or the new.
        """
        found: list[int] = []
        at = self.addr
        while at < self.end:
            here = code[at - self.addr :]
            size = max((len(raw) for raw in self.insns[at] if here.startswith(raw)), default=0)
            if size == 0:
                break
            at += size
            found.append(at)
        return frozenset(found) - {self.end}

    def right(self, now: TextIs) -> tuple[bytes, ...]:
        """Return the first instructions that are right while no protocol is at work."""
        codes = (self.new,) if now is TextIs.NEW else (self.old, self.again)
        return tuple(dict.fromkeys(map(self.first, codes)))
