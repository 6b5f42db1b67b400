"""The one error hierarchy. Errors that the kernel would return carry its ``errno``
(include/uapi/asm-generic/errno-base.h).

Three families, by whose turn it is to act:

* :class:`InputError` — the user's: an image, an argument or a SPEC is wrong. One line, exit status
  2.
* :class:`KprobeError` — the caller's: the kernel would have returned ``-errno`` here.
* :class:`EngineBug` — ours: an invariant of the engine itself is broken.

A guest that faults is a result (``GuestFault`` records in the machine); only who asks for a call's
value alone gets an exception, one that carries the record.
"""

from __future__ import annotations

import errno as _errno

__all__ = (
    "Deadlock",
    "EngineBug",
    "InputError",
    "KprobeError",
    "OptprobeError",
    "UnprobedFault",
    "WorkerDied",
    "errno_name",
    "error_text",
    "printable",
)


def errno_name(code: int) -> str:
    """``22`` or ``-22`` -> ``"EINVAL"``; a number without a name prints as itself.

    The kernel's ``ENOTSUPP``/``EOPNOTSUPP`` (95) has two names in C; the kernel's kprobes code says
    EOPNOTSUPP.
    """
    number = abs(code)
    if number == _errno.EOPNOTSUPP:
        return "EOPNOTSUPP"
    return _errno.errorcode.get(number, str(number))


def printable(text: str) -> str:
    """``text`` as it may stand in a one-line message: what does not print is escaped, what is long
    is cut.
    """
    shown = text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
    return shown if len(shown) <= 200 else shown[:197] + "..."


def error_text(error: Exception) -> str:
    """What a message says of an error of the system or of the standard library: in words, without
    ``[Errno 2]`` and the file's name.
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return printable(str(error)) or type(error).__name__


class OptprobeError(Exception):
    """Root of everything this project raises on purpose."""


class InputError(OptprobeError):
    """Bad usage or bad input: the message is one line that says what is wrong and what would be
    right.
    """


class KprobeError(OptprobeError):
    """The kernel would have returned ``-errno`` from this call.

    :param errno: positive errno value, such as ``errno.EILSEQ``.
    :param reason: a short clause in plain words, without the errno's name.
    """

    def __init__(self, errno: int, reason: str) -> None:
        super().__init__(f"{errno_name(errno)}: {reason}")
        self.errno = errno
        self.reason = reason

    def __reduce__(self) -> tuple[type[KprobeError], tuple[int, str]]:
        """Pickled as it is made, not by its message: it has to come back from worker processes."""
        return type(self), (self.errno, self.reason)


class EngineBug(OptprobeError):
    """This should never happen: an invariant of the engine broke. Please report it with the
    scenario.
    """


class Deadlock(OptprobeError):
    """A control task waits for something that nothing left in the machine can bring about."""


class UnprobedFault(OptprobeError):
    """The guest dies, or does not end, without any probe: a result, so exit status 1, but nothing
    that probes can be checked against.
    """


class WorkerDied(OptprobeError):
    """A process that had part of the work ended without a result."""
