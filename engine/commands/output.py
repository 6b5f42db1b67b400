"""The printing of results that several commands share."""

from __future__ import annotations

import json
from collections.abc import Mapping

__all__ = ("print_json",)


def print_json(document: Mapping[str, object]) -> None:
    """Print ``document`` on standard output in one line.

    :raises ValueError: it has a number that JSON can't express, such as an infinity.
    """
    print(json.dumps(document, allow_nan=False))
