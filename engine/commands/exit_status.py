"""Exit statuses, and the one line that an error becomes where a program ends with it.

0 good; 1 a failed check, a guest fault or output that can't be written; 2 bad usage or input, with
one line that says what is wrong; 130 after Ctrl-C.
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
"""What a write to standard output may end in; any other error of the system is about something
else.
"""


def exit_status(program: Callable[[], int]) -> int:
    """What ``program`` returns; or else the status of the error that ends it, which is told in one
    line on standard error. An error of the program itself is raised on.
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
    except BrokenPipeError:  # the reader went away (`optprobe ... | head`)
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
    """Run ``program``; an error by which what Ctrl-C cut off could not be unwound is Ctrl-C."""
    try:
        return program()
    except Exception as error:
        if was_interrupted(error):
            raise KeyboardInterrupt from error
        raise


def _refused_by_the_system(error: OSError) -> int:
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
    """What is still buffered goes nowhere, lest the interpreter complains when it flushes at its
    end.
    """
    with suppress(OSError):  # not a file, in a test
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
