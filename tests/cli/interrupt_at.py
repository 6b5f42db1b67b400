"""The command with Ctrl-C at a moment that is the same in each run: ``python
tests/cli/interrupt_at.py EVENT WORD...``.

EVENT counts the calls and returns of functions from where the program is entered; one below 0
counts from the end of the process, which takes a run of the same words to count them all.
"""

from __future__ import annotations

import atexit
import os
import signal
import subprocess
import sys
from pathlib import Path
from types import FrameType
from typing import NoReturn

ROOT = Path(__file__).resolve().parents[2]


def run(event: int, words: list[str]) -> NoReturn:
    """Without end, at event 0: nothing is interrupted, and the last line on standard error has the
    number of events.
    """
    seen = 0

    def count(_frame: FrameType, _event: str, _what: object) -> None:
        nonlocal seen
        seen += 1
        if seen == event:
            os.kill(os.getpid(), signal.SIGINT)

    from engine.__main__ import run as command

    if event == 0:
        atexit.register(lambda: os.write(2, f"{seen}\n".encode()))
    sys.argv = ["optprobe", *words]
    sys.setprofile(count)
    sys.exit(command())


if __name__ == "__main__":
    sys.path.insert(0, str(ROOT))
    number = int(sys.argv[1])
    if number < 0:
        counted = subprocess.run(
            [sys.executable, __file__, "0", *sys.argv[2:]],
            capture_output=True,
            text=True,
            check=False,
        )
        number += int(counted.stderr.split()[-1]) + 1
    run(number, sys.argv[2:])
