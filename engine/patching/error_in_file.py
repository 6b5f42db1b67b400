"""The text on an error in a Python file of a user's: of scenarios, or of patch protocols."""

from __future__ import annotations

from traceback import walk_tb

from engine.errors import InputError, error_text, printable

__all__ = ("error_in_file",)


def error_in_file(error: BaseException, file: str) -> str:
    """Return a text on an error that a user's Python file has raised, with its line there."""
    lines = [
        line for frame, line in walk_tb(error.__traceback__) if frame.f_code.co_filename == file
    ]
    where = f"{printable(file)}{f', line {lines[-1]}' if lines else ''}"
    if isinstance(error, InputError):
        return f"{where}: {error}"
    if isinstance(error, SystemExit):
        return f"{where}: it ends the program; a file of scenarios or protocols only defines them"
    if isinstance(error, OSError):
        return f"{where}: {error_text(error)}"
    return f"{where}: {type(error).__name__}: {printable(str(error))}"
