"""The text on an error in a Python file of a user's: of scenarios, or of patch protocols."""

from __future__ import annotations

from traceback import walk_tb

from greenlet import GreenletExit

from engine.ctrl_c import was_interrupted
from engine.errors import OptprobeError, error_text, printable

__all__ = ("error_in_file", "is_of_users_code")


def is_of_users_code(error: BaseException) -> bool:
    """Return whether ``error`` is one that the code of a user's file has raised by itself.

    Ctrl-C, and the end of the greenlet that a control task runs on, are none.
    """
    return not isinstance(error, KeyboardInterrupt | GreenletExit) and not was_interrupted(error)


def error_in_file(error: BaseException, file: str) -> str:
    """Return a text on an error that a user's Python file has raised, with its line there."""
    lines = [
        line for frame, line in walk_tb(error.__traceback__) if frame.f_code.co_filename == file
    ]
    where = f"{printable(file)}{f', line {lines[-1]}' if lines else ''}"
    if isinstance(error, OptprobeError):
        return f"{where}: {error}"
    if isinstance(error, SystemExit):
        return f"{where}: it ends the program; a file of scenarios or protocols only defines them"
    if isinstance(error, OSError):
        names = (error.filename, error.filename2)
        files = "".join(f" {printable(str(name))}" for name in names if name is not None)
        return f"{where}: {error_text(error)}{f': {files[1:]}' if files else ''}"
    return f"{where}: {type(error).__name__}: {printable(str(error))}"
