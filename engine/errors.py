"""The one hierarchy of errors, and how they print.

There are three families, one for each party that has to act:

* :class:`InputError` is the user's: an image, an argument or an option is wrong. The command prints
  one line and ends with exit status 2.
* :class:`KprobeError` is the caller's: the kernel would have returned ``-errno`` here
  (include/uapi/asm-generic/errno-base.h).
* :class:`EngineBug` is this project's: an invariant of the engine itself is broken.

A guest that faults is a result and no error: the machine has a ``GuestFault`` record of it. Only an
operation that returns nothing but a call's value raises an exception, which carries that record.
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
    """The name of an errno, such as ``"EINVAL"`` for 22 and for -22; a number without one as text.

    95 has two names in C, ENOTSUP and EOPNOTSUPP; the kernel's kprobes code says EOPNOTSUPP.
    """
    number = abs(code)
    if number == _errno.EOPNOTSUPP:
        return "EOPNOTSUPP"
    return _errno.errorcode.get(number, str(number))


def printable(text: str) -> str:
    """``text`` as it may stand in a one-line message.

    What does not print is escaped, and what is longer than 200 characters is cut.
    """
    shown = text if text.isprintable() else text.encode("unicode_escape").decode("ascii")
    return shown if len(shown) <= 200 else shown[:197] + "..."


def error_text(error: Exception) -> str:
    """``error``, which the system or the standard library raised, in words for a message.

    ``[Errno 2]`` and the file's name are left out.
    """
    if isinstance(error, OSError) and error.strerror:
        return error.strerror
    return printable(str(error)) or type(error).__name__


class OptprobeError(Exception):
    """The root of all errors that this project raises on purpose."""


class InputError(OptprobeError):
    """The usage or the input is wrong.

    The message is one line that says what is wrong and what would be right.
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
        """Pickle the error by its arguments, so that it comes back from a worker process."""
        return type(self), (self.errno, self.reason)


class EngineBug(OptprobeError):
    """An invariant of the engine is broken, which should never happen.

    Please report it, with the scenario.
    """


class Deadlock(OptprobeError):
    """A control task waits for something that nothing left in the machine can bring about."""


class UnprobedFault(OptprobeError):
    """The guest dies, or does not end, without any probe.

    This is a result, so the exit status is 1, but there is no good run to compare probed runs with.
    """


class WorkerDied(OptprobeError):
    """A process that had part of the work ended without a result."""
