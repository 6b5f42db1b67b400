"""The arguments of a call, as the command line writes them. The kernel has no such syntax.

The forms are ``N``, ``f64:X``, ``buf:HEX``, ``buf:@FILE`` and ``buf:+SIZE``.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import Final

from engine.errors import InputError, printable

__all__ = (
    "Argument",
    "BufferArgument",
    "DoubleArgument",
    "IntegerArgument",
    "parse_argument",
    "parse_number",
)

BUFFER_MAX: Final = 8 << 20
"""The most bytes of a buffer."""
_FORMS: Final = "an integer (5, -3, 0x10), f64:1.5, buf:HEX, buf:@FILE or buf:+SIZE"


@dataclass(frozen=True, slots=True)
class IntegerArgument:
    """A number from -2^63 to 2^64 - 1, which goes into the next integer register."""

    value: int


@dataclass(frozen=True, slots=True)
class DoubleArgument:
    """A floating-point number, which goes into the next vector register."""

    value: float


@dataclass(frozen=True, slots=True)
class BufferArgument:
    """The content of a buffer, of which each CPU gets one of its own.

    The buffer's address goes into the next integer register.
    """

    content: bytes


Argument = IntegerArgument | DoubleArgument | BufferArgument


def parse_number(text: str, what: str, *, least: int | None = None, most: int | None = None) -> int:
    """Parse ``text`` as a decimal number, or as a hexadecimal one with 0x in front.

    :param what: the name of the option, for messages.
    :param least: the smallest number allowed, or None.
    :param most: the largest number allowed, or None.
    :raises InputError: it is no number, or out of range.
    """
    try:
        if not text.isascii():  # int() takes the digits of all scripts
            raise ValueError
        value = int(text, 0)
    except ValueError:
        raise InputError(
            f"{what}: {printable(text)} is not a number; give one such as 5 or 0x10"
        ) from None
    if (least is not None and value < least) or (most is not None and value > most):
        bounds = f"at least {least}" if most is None else f"{least} to {most}"
        raise InputError(f"{what}: {printable(text)} is out of range; give {bounds}")
    return value


def parse_argument(text: str) -> Argument:
    """Parse the text of one ``--arg``.

    :raises InputError: it has none of the forms, the file can't be read, or the buffer is empty or
        larger than 8 MiB.
    """
    if text.startswith("f64:"):
        try:
            return DoubleArgument(float(text[4:]))
        except ValueError:
            raise InputError(
                f"--arg {printable(text)}: not a floating-point number; give one such as f64:1.5"
            ) from None
    if text.startswith("buf:"):
        return BufferArgument(_buffer(text, text[4:]))
    try:
        if not text.isascii():
            raise ValueError
        value = int(text, 0)
    except ValueError:  # int() also refuses more than 4300 digits
        raise InputError(f"--arg {printable(text)}: give {_FORMS}") from None
    if not -(1 << 63) <= value < 1 << 64:
        raise InputError(
            f"--arg {printable(text)}: does not fit in 64 bits; give -2^63 to 2^64 - 1"
        )
    return IntegerArgument(value)


def _buffer(text: str, body: str) -> bytes:
    """The content of a buffer, from what stands behind ``buf:``."""
    if body.startswith("+"):
        return bytes(parse_number(body[1:], f"--arg {printable(text)}", least=1, most=BUFFER_MAX))
    if body.startswith("@"):
        content = _file(text, Path(body[1:]))
    else:
        try:
            content = bytes.fromhex(body)
        except ValueError:
            raise InputError(
                f"--arg {printable(text)}: not hexadecimal; give pairs of hex digits, such as"
                " buf:0a1b"
            ) from None
    if not content:
        raise InputError(f"--arg {printable(text)}: an empty buffer; give at least one byte")
    if len(content) > BUFFER_MAX:
        raise InputError(
            f"--arg {printable(text)}: more than {BUFFER_MAX} bytes, the most that a buffer has;"
            " give a shorter one"
        )
    return content


def _file(text: str, path: Path) -> bytes:
    """The content of the file, of which at most one byte more than a buffer may have is read."""
    try:
        # reading a FIFO or a terminal would wait, and a device may never end
        if not path.is_file():
            what = "not a regular file" if path.exists() else "no such file"
            raise InputError(f"--arg {printable(text)}: {what}; give a file that can be read")
        with path.open("rb") as file:
            return file.read(BUFFER_MAX + 1)
    except (OSError, ValueError) as error:  # a null character in the path is a ValueError
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(
            f"--arg {printable(text)}: {reason}; give a file that can be read"
        ) from None
