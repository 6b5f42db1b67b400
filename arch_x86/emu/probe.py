"""What is known of Unicorn's private structures."""

from __future__ import annotations

__all__ = ("Probe",)


class Probe:
    """Offsets inside Unicorn's private structures, found by measuring them (``calibration``); None where none was found.

    ``counter``: offset in ``uc_struct`` of the number of instructions that the last run began.
    ``exception``: offset in a saved context of the number of the last exception taken, which Unicorn never clears
    (a second page fault would then become a double fault).
    ``error_code``: offset in a saved context of the last page fault's error code.
    ``software``: offset in a saved context of whether an ``int n`` raised the last exception.
    ``shadow``: offset in a saved context of the word whose bit :data:`~arch_x86.emu.uc.SHADOW` is set right after STI and MOV SS.
    """

    __slots__ = ("counter", "error_code", "exception", "shadow", "software")

    def __init__(
        self,
        counter: int | None = None,
        exception: int | None = None,
        error_code: int | None = None,
        software: int | None = None,
        shadow: int | None = None,
    ) -> None:
        self.counter = counter
        self.exception = exception
        self.error_code = error_code
        self.software = software
        self.shadow = shadow
