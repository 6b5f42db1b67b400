"""The code of a scenario's control tasks, and how an exploration runs it."""

from __future__ import annotations

from collections.abc import Callable, Coroutine, Generator, Sequence
from pathlib import Path
from traceback import walk_tb
from typing import cast

from engine.errors import InputError, OptprobeError, printable
from engine.patching.error_in_file import is_of_users_code
from engine.patching.operations import Control

__all__ = ("ControlCode", "ControlCodes", "require_done", "run_control_code")

ControlCode = Callable[[Control], None]
"""Such a function does a control task's work by operations on a :class:`Control`."""
ControlCodes = Callable[[], Sequence[tuple[str, ControlCode]]]
"""Such a function makes the work of the control tasks, by name, for one control state.

It is called for each control state: the tasks of one state share what it keeps outside of their
functions.
"""


def run_control_code(name: str, work: ControlCode, control: Control) -> None:
    """Run the work of control task ``name``, and report what a scenario's own code raises.

    :raises InputError: the code raised an error of its own, which counts as a violation, as
        every error does that ends a control task; or it did nothing, since Python makes a
        generator of a function with a ``yield``.
    """
    try:
        left = cast("object", work(control))
    except OptprobeError:
        raise
    except BaseException as error:
        if not is_of_users_code(error):
            raise
        code = getattr(work, "__code__", None)  # A ``functools.partial`` has no code of its own.
        own = [
            (frame.f_code.co_filename, line)
            for frame, line in walk_tb(error.__traceback__)
            if frame.f_code is code
        ]
        where = f"{Path(own[0][0]).name}:{own[0][1]}: " if own else ""
        raise InputError(
            f"{where}control task {name}: {type(error).__name__}: {printable(str(error))}"
        ) from error
    require_done(f"control task {name}", left)


def require_done(what: str, left: object) -> None:
    """Require that a call of a user's function has done its work.

    :param what: whose function it is.
    :param left: what the call has returned.
    :raises InputError: it is only an object that has yet to be run.
    """
    if isinstance(left, Generator | Coroutine):
        kind = "generator" if isinstance(left, Generator) else "coroutine"
        left.close()  # Python warns of a coroutine that is never run.
        raise InputError(
            f"{what}: its function is a {kind}, which does nothing; make it one without yield or"
            " async"
        )
