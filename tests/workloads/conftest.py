# SPDX-License-Identifier: GPL-2.0-only
"""Makes ``workloads`` importable: it is no part of the installed package."""

import sys
from pathlib import Path

ROOT = str(Path(__file__).parents[2])
if ROOT not in sys.path:
    sys.path.append(ROOT)
