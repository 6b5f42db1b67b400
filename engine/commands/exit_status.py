"""The exit statuses, and the line on standard error about an error that ends a program.

0 means good; 1 means a failed check, a guest fault or output that can't be written; 2 means bad
usage or input, and one line says what is wrong; 130 means that Ctrl-C ended the program.
"""

from __future__ import annotations

import errno
import os
import sys
from collections.abc import Callable
from contextlib import suppress
from typing import Final

from engine.ctrl_c import was_interrupted
from engine.errors import InputError, KprobeError, UnprobedFault, WorkerDied, error_text
from engine.report.terminal import complain

__all__ = ("BAD", "GOOD", "INTERRUPTED", "USAGE", "exit_status")

GOOD: Final = 0
BAD: Final = 1
USAGE: Final = 2
INTERRUPTED: Final = 130

_OUTPUT_ERRORS: Final = (
    errno.EBADF,
    errno.EFBIG,
    errno.EINVAL,
    errno.EIO,
    errno.ENOSPC,
    errno.EDQUOT,
    errno.EROFS,
    errno.ENXIO,
    errno.EAGAIN,
)
"""The errors of the system that a write to standard output may end in."""


def exit_status(program: Callable[[], int]) -> int:
    """Run ``program``, and return what it returns, or the status of the error that ends it.

    One line on standard error says what the error was. An error that shows a fault of the program
    itself is not caught.
    """
    try:
        return _uncovered(program)
    except (InputError, KprobeError) as error:
        complain(str(error))
        return USAGE
    except KeyboardInterrupt as error:
        complain(f"interrupted {error}".rstrip())
        return INTERRUPTED
    except (UnprobedFault, WorkerDied) as error:
        complain(str(error))
        return BAD
    except MemoryError:
        complain(
            "not enough memory; use smaller buffers, fewer --cpus or fewer --jobs, or allow the"
            " process more (ulimit -v)"
        )
        return BAD
    except BrokenPipeError:  # The reader of the output has ended (`optprobe ... | head`).
        _give_up_output()
        return BAD
    except ImportError as error:
        complain(
            f"cannot load what it needs: {error_text(error)}; is there too little memory, or was it"
            " installed in part?"
        )
        return BAD
    except OSError as error:
        return _refused_by_the_system(error)


def _uncovered(program: Callable[[], int]) -> int:
    """Run ``program``, and let no other error cover up a KeyboardInterrupt.

    An error that is raised while a KeyboardInterrupt is on its way out becomes a KeyboardInterrupt.
    """
    try:
        return program()
    except Exception as error:
        if was_interrupted(error):
            raise KeyboardInterrupt from error
        raise


def _refused_by_the_system(error: OSError) -> int:
    """Print whether the output or something else has failed, and return the exit status."""
    if error.errno not in _OUTPUT_ERRORS:
        complain(
            f"the system refuses: {error_text(error)}; is there too little memory, or are there too"
            " many files or processes?"
        )
        return BAD
    _give_up_output()
    complain(f"cannot write the output: {error_text(error)}")
    return BAD


def _give_up_output() -> None:
    """Send what is still buffered for standard output to the null device.

    The interpreter flushes the buffer when it ends, and would print an error of its own.
    """
    with suppress(OSError):  # In a test standard output is no file.
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
