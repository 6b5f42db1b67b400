"""This module has the record of what ``optprobe inspect`` says about one byte (kernel/kprobes.c).

It is data, and makes JSON text of it. docs/inspect.md and docs/json.md explain each field.
"""

from __future__ import annotations

import json
from dataclasses import dataclass
from functools import lru_cache
from typing import TYPE_CHECKING, Any, Final, NamedTuple

from arch_x86.isa.constants import PAGE_SIZE
from engine.brief import count, described
from engine.errors import errno_name

if TYPE_CHECKING:
    from arch_x86.probes.eligibility import ProbeRefusal
    from arch_x86.probes.optimize import OptimizePlan, Unoptimizable
    from arch_x86.probes.prepare_emulation import Emulation
    from engine.image import Image

__all__ = ("Buffer", "BufferAddresses", "SiteReport", "answers_text")

_GAP: Final = 1 << 20


@dataclass(frozen=True, slots=True)
class BufferAddresses:
    """This record has the hypothetical addresses of slots, detour buffers and the callback.

    :mod:`arch_x86.probes.inspect` says why they are where they are.
    """

    slot: int
    detour: int
    callback: int

    @classmethod
    def behind(cls, image: Image) -> BufferAddresses:
        """Return the addresses behind ``image``."""
        last = max((segment.end for segment in image.segments), default=0)
        base = (last + _GAP + PAGE_SIZE - 1) & -PAGE_SIZE
        return cls(base, base + PAGE_SIZE, base + 2 * PAGE_SIZE)


@dataclass(frozen=True, slots=True)
class Buffer:
    """This record is a slot or detour buffer: its bytes at an address.

    :ivar copied: the offset and length in bytes of the copied instructions in a detour buffer; None
        for a slot.
    """

    addr: int
    code: bytes
    copied: tuple[int, int] | None = None

    def __repr__(self) -> str:
        return described(self, f"{self.addr:#x}", count(len(self.code), "byte"), self.code.hex())

    def to_json(self) -> dict[str, Any]:
        """Return the value of the fields ``slot`` and ``detour`` in the JSON document."""
        document: dict[str, Any] = {"addr": self.addr, "hex": self.code.hex()}
        if self.copied is not None:
            document["copied"] = list(self.copied)
        return document


class SiteReport(NamedTuple):
    """This record is the report on one byte offset of a function.

    It is a tuple, since a frozen dataclass takes four times as long to make, and a MiB of code has
    270,000 of them.

    :ivar insn: the text of the instruction that starts there, or None; ``length`` is its length in
        bytes.
    :ivar errno: 0 when a probe may go there, or the positive number of the error that
        register_kprobe() returns.
    :ivar probe_reason: why no probe may go there, or None.
    :ivar boostable: whether a hit is boosted; None where no probe goes.
    :ivar emulated: how a hit that is not boosted is emulated, or None.
    :ivar plan: what a jump there replaces, or None.
    :ivar reason: why there is no jump, or None.
    """

    offset: int
    insn: str | None
    length: int | None
    errno: int
    probe_reason: ProbeRefusal | None
    boostable: bool | None
    emulated: Emulation | None
    plan: OptimizePlan | None
    reason: Unoptimizable | None
    slot: Buffer | None = None
    detour: Buffer | None = None

    def __repr__(self) -> str:
        probe = f"no probe: {errno_name(self.errno)}" if self.errno else "probeable"
        jump = (
            f"not optimizable: {self.reason}"
            if self.plan is None
            else f"a jump replaces {self.plan.size} bytes"
        )
        return described(
            self, f"+{self.offset:#x}", self.insn or "no instruction starts here", probe, jump
        )

    def to_json(self) -> dict[str, Any]:
        """Return the element of ``sites`` in the JSON document."""
        return {
            "offset": self.offset,
            "insn": self.insn,
            "length": self.length,
            "probe": -self.errno,
            "probe_reason": self.probe_reason,
            "boostable": self.boostable,
            "emulated": self.emulated,
            "optimizable": self.plan is not None,
            "reason": self.reason,
            "replaced_length": None if self.plan is None else self.plan.size,
            "slot": None if self.slot is None else self.slot.to_json(),
            "detour": None if self.detour is None else self.detour.to_json(),
        }

    def json_text(self) -> str:
        """Return the text of ``json.dumps(self.to_json())``.

        Where there are no buffers, this takes a third of the time.
        """
        if self.slot is not None or self.detour is not None:
            return json.dumps(self.to_json())
        answers = answers_text(
            self.length,
            self.errno,
            self.probe_reason,
            self.boostable,
            self.emulated,
            self.plan and self.plan.size,
            self.reason,
        )
        return f'{{"offset": {self.offset}, "insn": {json.dumps(self.insn)}{answers}'


@lru_cache(maxsize=1 << 12)
def answers_text(
    length: int | None,
    errno: int,
    probe_reason: ProbeRefusal | None,
    boostable: bool | None,
    emulated: Emulation | None,
    size: int | None,
    reason: Unoptimizable | None,
) -> str:
    """Return the end of :meth:`SiteReport.json_text`, from behind the instruction's text.

    It is that of a site without buffers. Many sites have the same.

    :param size: how many bytes a jump replaces; None where there is none.
    """
    return (
        f', "length": {_number(length)}, "probe": {-errno}, "probe_reason": {_word(probe_reason)},'
        f' "boostable": {_BOOLEANS[boostable]}, "emulated": {_word(emulated)}, "optimizable":'
        f' {_BOOLEANS[size is not None]}, "reason": {_word(reason)}, "replaced_length":'
        f' {_number(size)}, "slot": null, "detour": null}}'
    )


_BOOLEANS: Final = {None: "null", False: "false", True: "true"}


def _number(number: int | None) -> str:
    return "null" if number is None else str(number)


def _word(word: str | None) -> str:
    """Return the JSON text of a member of a closed list, in which nothing has to be escaped."""
    return "null" if word is None else f'"{word}"'
