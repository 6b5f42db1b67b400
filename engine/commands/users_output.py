"""The output of users' Python code: it goes to standard error while a command runs that code.

Standard output has the command's own lines, or one JSON document, which a script reads.
"""

from __future__ import annotations

import sys
from contextlib import AbstractContextManager, redirect_stdout

__all__ = ("users_output_apart",)


def users_output_apart() -> AbstractContextManager[object]:
    """Return a context in which what is printed goes to standard error.

    Inside of it a command loads and runs scenarios, protocols, oracles and strategies, and prints
    nothing of its own to standard output.
    """
    return redirect_stdout(sys.stderr)
