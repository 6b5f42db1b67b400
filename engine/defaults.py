"""What a command does where an option is left out.

The command line, the records that keep options, and the Python interface all take these from here.
"""

from __future__ import annotations

from typing import Final

__all__ = (
    "CALLS",
    "CPUS",
    "EXPERIMENT_MAX_INSTRUCTIONS",
    "FETCH",
    "INTERRUPTS",
    "JOBS",
    "MAX_INSTRUCTIONS",
    "PCT_DEPTH",
    "POINTS",
    "PREEMPTIONS",
    "PROFILE",
    "RED_ZONE",
    "SCENARIO_CALLS",
    "SCRIPT_CPUS",
    "SEED",
    "STRATEGY",
)

PROFILE: Final = "linux-2010"
CPUS: Final = 1
SCRIPT_CPUS: Final = 2
"""vCPUs of ``script``."""
JOBS: Final = 1
"""Processes."""
MAX_INSTRUCTIONS: Final = 100_000_000
"""Instructions that a call may retire before it is taken for endless."""
INTERRUPTS: Final = "none"
RED_ZONE: Final = "auto"
EXPERIMENT_MAX_INSTRUCTIONS: Final = 1_000_000
"""The same, of a scenario and of an experiment that is made in Python: neither has an option for
it.
"""
CALLS: Final = 3
"""Calls of each vCPU in ``check``."""
SCENARIO_CALLS: Final = 2
"""Calls of each vCPU in a scenario."""
FETCH: Final = "coherent"
POINTS: Final = "locks"
"""Where control tasks stop."""
STRATEGY: Final = "exhaustive"
PREEMPTIONS: Final = 2
"""Bound on interrupts and on switches away from a busy vCPU in one schedule."""
SEED: Final = 0
PCT_DEPTH: Final = 3
