"""The running of a user's Python file, of scenarios or of patch protocols."""

from __future__ import annotations

import runpy
from pathlib import Path
from typing import Any

from engine.errors import InputError, error_text, printable
from engine.patching.error_in_file import error_in_file, is_of_users_code

__all__ = ("names_of_file",)


def names_of_file(name: str, what: str, right: str) -> dict[str, Any]:
    """Run the Python file ``name``, and return what it defines.

    :param what: the option that names the file, with a space behind it, or "".
    :param right: what would be right in the place of a file that is not there.
    :raises InputError: there is no such file, or it raises an error when it is run.
    """
    path = Path(name)
    wrong = _no_file(path)
    if wrong is not None:
        raise InputError(f"{what}{printable(name)}: {wrong}; {right}")
    try:
        return runpy.run_path(str(path))
    except BaseException as error:
        if not is_of_users_code(error):
            raise
        raise InputError(error_in_file(error, str(path))) from None


def _no_file(path: Path) -> str | None:
    """Return why ``path`` is no regular file, or None if it is one.

    No other file is opened, since reading a FIFO would wait, and a device may never end.
    """
    try:
        if path.is_file():
            return None
        return (
            "a directory"
            if path.is_dir()
            else "not a regular file"
            if path.exists()
            else "no such file"
        )
    except (OSError, ValueError) as error:  # the name may be too long, for example
        return error_text(error)
