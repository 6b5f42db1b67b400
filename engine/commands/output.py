"""What several commands print."""

from __future__ import annotations

import json
from collections.abc import Mapping

__all__ = ("print_json",)


def print_json(document: Mapping[str, object]) -> None:
    """``document`` on standard output, in one line. It has no numbers that JSON lacks."""
    print(json.dumps(document, allow_nan=False))
