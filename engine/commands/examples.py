"""One example of each command, which its ``--help`` ends with. A test runs all of them on a small
function of its own.
"""

from __future__ import annotations

from typing import Final

__all__ = ("EXAMPLES",)

EXAMPLES: Final = {
    "run": (
        "optprobe run work.o --call work --arg 5 --arg buf:616263 --probe work --interrupts"
        " every:100"
    ),
    "verify": (
        "optprobe verify work.o --call work --arg 5 --arg buf:616263 --interrupts boundaries"
        " --jobs 2"
    ),
    "script": "printf 'reg 0 work+0\\nwait\\nunreg 0\\nwait\\n' | optprobe script work.o -",
    "inspect": "optprobe inspect work.o work --buffers",
    "check": (
        "optprobe check work.o --call work --arg 5 --arg buf:616263 --probe work --calls 1"
        " --without stop-machine"
    ),
    "explore": "optprobe explore scenarios.py::register --profile linux-6.1 --save found",
    "matrix": "optprobe matrix --profile linux-2010 --no-preempt --max-schedules 500",
    "replay": "optprobe replay found/violation-1f2e3d4c-0.json",
    "steps": "optprobe steps --profile linux-6.1",
    "demo": "optprobe demo",
}
