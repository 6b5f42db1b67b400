"""The bounds within which options can be given."""

from __future__ import annotations

from typing import Final

__all__ = ("BATCH_MAX", "CALLS_MAX", "CPUS_MAX", "INSTRUCTIONS_MAX", "JOBS_MAX", "PREEMPTIONS_MAX")

CPUS_MAX: Final = 8
"""Most vCPUs of a machine."""
CALLS_MAX: Final = 1_000
"""Most calls that a vCPU makes in an experiment."""
INSTRUCTIONS_MAX: Final = 1 << 62
"""Highest bound on the instructions of a call."""
BATCH_MAX: Final = 256
"""Most probes of a batch (MAX_OPTIMIZE_PROBES in kernel/kprobes.c)."""
PREEMPTIONS_MAX: Final = 1_000
"""Highest bound on the preemptions of a schedule, and highest depth of a search by pct."""
JOBS_MAX: Final = 256
"""Most processes of ``--jobs``."""
