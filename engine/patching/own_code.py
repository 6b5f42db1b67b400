"""The record of which Python code is the project's own, and which is its users'."""

from __future__ import annotations

from dataclasses import dataclass
from functools import partial
from typing import cast

__all__ = ("OwnCode",)


@dataclass(frozen=True, slots=True)
class OwnCode:
    """This record says which modules are the project's.

    The local variables of code in these modules tell all that decides how the code goes on
    (:mod:`engine.patching.local_state`).

    :ivar packages: the names of the project's packages.
    :ivar scenarios: the package within them whose modules are written as a user would write
        them, and count as a user's.
    """

    packages: frozenset[str]
    scenarios: str

    def comes_along(self, made: object) -> bool:
        """Return whether what is called, ``made``, comes with the project: its scenarios count."""
        while isinstance(made, partial):
            made = cast("partial[object]", made).func
        module = getattr(made, "__module__", None) or type(made).__module__
        return module.partition(".")[0] in self.packages

    def has(self, module: str) -> bool:
        """Return whether the module of that name is the project's own."""
        return module.partition(".")[0] in self.packages and not module.startswith(self.scenarios)
