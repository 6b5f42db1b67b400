# SPDX-License-Identifier: GPL-2.0-only
"""Real machine code to probe, and what it computes when it has no probe."""
