"""Checkpoints: what a search has found so far, in a file with one line for each part.

A search that was killed at any moment goes on from its checkpoint where it was.
"""

from __future__ import annotations

import base64
import fcntl
import json
from collections.abc import Mapping
from contextlib import suppress
from hashlib import blake2b
from pathlib import Path
from typing import Any, Final

from engine.errors import InputError, error_text, printable
from engine.search.explorable import Coverage, Violation, ViolationKind
from engine.search.parts import Found, PartResult
from engine.search.schedule import segments_from, text_of

__all__ = ("Checkpoint", "code_mark")

_FORMAT: Final = "optprobe-checkpoint"


class Checkpoint:
    """The checkpoint file of one search, which is made if it does not exist.

    A last line that was cut off is dropped, since the search was killed while writing it.

    :param mark: names the search; the results of a search with another mark are refused.
    :ivar unwritten: why the file lacks some of what was found, in words; None while it lacks
        nothing.
    :raises InputError: the file can't be read or written, it belongs to another search, or another
        process is writing it at present.
    """

    def __init__(self, file: Path, mark: str) -> None:
        header = json.dumps({"format": _FORMAT, "version": 1, "search": mark})
        self.file = file
        self.unwritten: str | None = None
        try:
            file.parent.mkdir(parents=True, exist_ok=True)
            if file.exists() and not file.is_file():
                raise InputError(
                    f"--checkpoint: {printable(str(file))}: not a regular file; take it away"
                )
            self._out = file.open("a+b", buffering=0)
        except (OSError, ValueError) as error:  # A null character in the name is a ValueError.
            raise _unwritable(
                file, "a file is there" if isinstance(error, FileExistsError) else error_text(error)
            ) from None
        try:
            self._lock()
            self._begin(header)
        except BaseException:
            self.close()
            raise

    def _lock(self) -> None:
        """Lock the file, so that no second process works on the same search.

        A record lock is taken because it ends with this process, however that ends, and because it
        is not inherited by processes that are forked.

        :raises InputError: another process holds the lock.
        """
        try:
            fcntl.lockf(self._out, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except (BlockingIOError, PermissionError):
            raise InputError(
                f"--checkpoint: {printable(str(self.file))}: another process is at this search;"
                " wait for its end, or give another directory"
            ) from None
        except OSError:  # The file system has no locks, so the search goes on without one.
            return

    def _begin(self, header: str) -> None:
        try:
            self._out.seek(0)
            whole = self._out.read()
            end = whole.rfind(b"\n") + 1
            lines = whole[:end].decode().splitlines()
            if lines and lines[0] != header:
                raise InputError(
                    f"{printable(str(self.file))}: not of this search; give another directory, or"
                    " take the file away"
                )
            self._known = [_result(json.loads(line)) for line in lines[1:]][::-1]
            self._out.truncate(end)
        except OSError as error:
            raise _unwritable(self.file, error_text(error)) from None
        except (ValueError, KeyError, TypeError, AttributeError, RecursionError) as error:
            raise InputError(
                f"{printable(str(self.file))}: {printable(str(error))}; not what a search wrote;"
                " take the file away"
            ) from None
        if not lines:
            self._put(header)
        if self.unwritten is not None:
            raise _unwritable(self.file, self.unwritten)

    def known(self, most: int) -> list[PartResult]:
        """Take the results of the next parts, ``most`` at most, that the file held at the start."""
        return [self._known.pop() for _ in range(min(most, len(self._known)))]

    def write(self, result: PartResult) -> None:
        """Append the result of the next part to the file.

        Once a result could not be written, none is written any more: the results of a checkpoint
        are of use only without a gap.
        """
        if self.unwritten is None:
            self._put(json.dumps(_document(result)))

    def _put(self, line: str) -> None:
        data = line.encode() + b"\n"
        try:
            while data:
                data = data[self._out.write(data) or 0 :]
        except OSError as error:
            self.unwritten = error_text(error)

    def close(self) -> None:
        """Close the file, to which nothing more is written."""
        with suppress(OSError):  # Some file systems report a full disk only when a file is closed.
            self._out.close()


def _unwritable(file: Path, why: str) -> InputError:
    return InputError(
        f"--checkpoint: cannot write {printable(str(file))}: {why}; give a directory that can be"
        " written to, or can be made"
    )


def code_mark(*packages: Path) -> str:
    """Return 8 hexadecimal digits that depend on all source files in these directories.

    They are part of a search's mark: what other code has found may not be what this code finds.
    """
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
            {
                "kind": v.kind,
                "cpu": v.cpu,
                "rip": v.rip,
                "explain": v.explain,
                "schedule": text_of(one.segments),
            }
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
            Found(
                Violation(ViolationKind(one["kind"]), one["cpu"], one["rip"], one["explain"]),
                segments_from(one["schedule"]),
            )
            for one in document["found"]
        ],
        coverage=Coverage(**document["coverage"]),
        points=base64.b64decode(document["points"]),
        keys=base64.b64decode(document["keys"]),
        groups=[
            (level, weight, base64.b64decode(blob)) for level, weight, blob in document["groups"]
        ],
    )
