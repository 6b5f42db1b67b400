"""The record of what is known of Unicorn's private structures."""

from __future__ import annotations

from dataclasses import dataclass

__all__ = ("PrivateOffsets",)


@dataclass(frozen=True, slots=True)
class PrivateOffsets:
    """Offsets inside Unicorn's private structures; None where none was found.

    They are found by measuring (:mod:`arch_x86.emu.calibration`).

    :ivar counter: in ``uc_struct``, of the number of instructions that the last run began.
    :ivar exception: in a saved context, of the number of the last exception taken, which Unicorn
        never clears (a second page fault would then become a double fault).
    :ivar error_code: in a saved context, of the last page fault's error code.
    :ivar software: in a saved context, of whether an ``int n`` raised the last exception.
    :ivar shadow: in a saved context, of the word whose bit
        :data:`~arch_x86.emu.private_state.SHADOW` is set right after STI and MOV SS.
    """

    counter: int | None = None
    exception: int | None = None
    error_code: int | None = None
    software: int | None = None
    shadow: int | None = None
