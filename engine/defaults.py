"""What a command does where an option is left out.

The command line, the records that keep options, and the Python interface all take these values.
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
    "PATCH_CALLS",
    "PCT_DEPTH",
    "POINTS",
    "PREEMPTIONS",
    "PROFILE",
    "PROTOCOL",
    "RED_ZONE",
    "SCENARIO_CALLS",
    "SCRIPT_CPUS",
    "SEED",
    "STRATEGY",
)

PROFILE: Final = "linux-2010"
CPUS: Final = 1
SCRIPT_CPUS: Final = 2
"""The number of vCPUs of ``script``."""
JOBS: Final = 1
"""The number of processes."""
MAX_INSTRUCTIONS: Final = 100_000_000
"""The number of instructions that a call may retire before it is taken for endless."""
EXPERIMENT_MAX_INSTRUCTIONS: Final = 1_000_000
"""The same number for a scenario, and for an experiment that is made in Python; neither has an
option for it.
"""
INTERRUPTS: Final = "none"
RED_ZONE: Final = "auto"
CALLS: Final = 3
"""The number of calls that each vCPU makes in ``check``."""
SCENARIO_CALLS: Final = 2
"""The number of calls that each vCPU makes in a scenario."""
FETCH: Final = "coherent"
PROTOCOL: Final = "text_poke_bp"
"""The patch protocol of ``patch``."""
PATCH_CALLS: Final = 2
"""The number of calls that each vCPU makes in ``patch``."""
POINTS: Final = "locks"
"""The places where control tasks stop: ``locks`` means locks, text writes and waits."""
STRATEGY: Final = "exhaustive"
PREEMPTIONS: Final = 2
"""The bound on interrupts and on switches away from a busy vCPU in one schedule."""
SEED: Final = 0
PCT_DEPTH: Final = 3
