"""Long runs whose answers go to a file, one JSON line each.

An answer that is in the file already is not worked out again.
"""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from engine.ctrl_c import Interrupted
from engine.process_pool import ProcessPool
from engine.report.terminal import Progress

__all__ = ("answers", "read")


def read(file: Path) -> dict[str, dict[str, Any]]:
    """The answers in ``file``, by their keys; a last line that was cut off is removed."""
    known: dict[str, dict[str, Any]] = {}
    if file.exists():
        text = file.read_text(encoding="utf-8")
        whole = text[: text.rfind("\n") + 1]
        if whole != text:
            file.write_text(whole, encoding="utf-8")
        for line in whole.splitlines():
            answer = json.loads(line)
            known[answer["key"]] = answer
    return known


def answers(
    file: Path,
    wanted: Sequence[Any],
    work: Callable[[Any], dict[str, Any]],
    *,
    jobs: int,
    line: Progress,
    noun: str,
) -> list[dict[str, Any]]:
    """The answer of each of ``wanted``, which have a ``key``.

    Those that are not in ``file`` are worked out by ``jobs`` processes, and added to it.

    :param noun: what one of ``wanted`` is called in the line of progress.
    :raises Interrupted: Ctrl-C came. The answers that came before it are in the file.
    :raises WorkerDied: a worker process died. The answers of the tasks before its own are in the
        file.
    """
    known = read(file)
    left = [one for one in wanted if one.key not in known]
    workers = ProcessPool(lambda: None, lambda _, one: work(one), max(1, min(jobs, len(left))))
    done = 0
    try:
        with workers, file.open("a", encoding="utf-8") as out:
            for answer in workers.in_order(left):
                line.update(done, len(left), noun)
                out.write(json.dumps(answer) + "\n")
                out.flush()
                known[answer["key"]] = answer
                done += 1
    except KeyboardInterrupt:
        raise Interrupted(f"after {done:,} of {len(left):,} {noun}") from None
    finally:
        line.clear()
    return [known[one.key] for one in wanted]
