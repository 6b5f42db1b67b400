"""The names that files of scenarios import: the decorator, the control, and the records.

They are defined in :mod:`engine.patching`. Files that were written before they moved there, and new
files, import them from here.
"""

from __future__ import annotations

from engine.limits import CALLS_MAX
from engine.patching.operations import Control
from engine.patching.scenario_decorator import scenario
from engine.patching.scenario_files import load_scenarios
from engine.patching.scenario_record import Scenario, Setup

__all__ = ("CALLS_MAX", "Control", "Scenario", "Setup", "load_scenarios", "scenario")
