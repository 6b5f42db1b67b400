"""What a search has found so far, in a file: a line a part, so that a search that was killed, however, goes on where it was."""

from __future__ import annotations

import base64
import json
from collections.abc import Mapping
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

from engine.errors import InputError, printable
from engine.search.explorable import Coverage, Violation, ViolationKind
from engine.search.schedule import segments_from, text_of
from engine.search.strategy import Found, PartResult

__all__ = ("Checkpoint", "code_mark")

_FORMAT: Final = "optprobe-checkpoint"


class Checkpoint:
    """One search's file, which is made if it is not there. A last line that was cut off does not count.

    :param mark: names the search; what another has found is of no use.
    :raises InputError: the file can't be read or written, or is another search's.
    """

    def __init__(self, file: Path, mark: str) -> None:
        header = json.dumps({"format": _FORMAT, "version": 1, "search": mark})
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            whole = file.read_bytes() if file.exists() else b""
            end = whole.rfind(b"\n") + 1
            lines = whole[:end].decode().splitlines()
            if lines and lines[0] != header:
                raise InputError(f"{printable(str(file))}: not of this search; give another directory, or take the file away")
            self._known = [_result(json.loads(line)) for line in lines[1:]][::-1]
            self._out = file.open("ab")
        except OSError as error:
            raise InputError(f"{printable(str(file))}: {error.strerror}; give a directory that can be written to") from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(f"{printable(str(file))}: {printable(str(error))}; not what a search wrote; take the file away") from None
        self._out.truncate(end)
        if not lines:
            self._put(header)

    def known(self, most: int) -> list[PartResult]:
        """The next results, ``most`` at most: those of the parts that come next."""
        return [self._known.pop() for _ in range(min(most, len(self._known)))]

    def write(self, result: PartResult) -> None:
        """One part more."""
        self._put(json.dumps(_document(result)))

    def _put(self, line: str) -> None:
        self._out.write(line.encode() + b"\n")
        self._out.flush()

    def close(self) -> None:
        """Nothing more comes."""
        self._out.close()


def code_mark(*packages: Path) -> str:
    """8 hexadecimal digits of the source files in these directories: what other code has found may not be found now."""
    digest = blake2b(digest_size=4)
    for package in packages:
        for file in sorted(package.rglob("*.py")):
            digest.update(file.relative_to(package).as_posix().encode() + file.read_bytes())
    return digest.hexdigest()


def _text(data: bytes) -> str:
    return base64.b64encode(data).decode()


def _document(result: PartResult) -> dict[str, Any]:
    return {
        "schedules": result.schedules,
        "merged": result.merged,
        "rechecked": result.rechecked,
        "found": [
            {"kind": v.kind, "cpu": v.cpu, "rip": v.rip, "explain": v.explain, "schedule": text_of(one.segments)}
            for one in result.found
            for v in (one.violation,)
        ],
        "coverage": result.coverage.to_json(),
        "points": _text(result.points),
        "keys": _text(result.keys),
        "groups": [[level, weight, _text(blob)] for level, weight, blob in result.groups],
    }


def _result(document: Mapping[str, Any]) -> PartResult:
    return PartResult(
        schedules=document["schedules"],
        merged=document["merged"],
        rechecked=document["rechecked"],
        found=[
            Found(Violation(ViolationKind(one["kind"]), one["cpu"], one["rip"], one["explain"]), segments_from(one["schedule"]))
            for one in document["found"]
        ],
        coverage=Coverage(**document["coverage"]),
        points=base64.b64decode(document["points"]),
        keys=base64.b64decode(document["keys"]),
        groups=[(level, weight, base64.b64decode(blob)) for level, weight, blob in document["groups"]],
    )
