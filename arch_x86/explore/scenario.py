"""What files of scenarios import from here: those that were written before scenarios moved to
:mod:`engine.patching`, and those that come along.
"""

from __future__ import annotations

from engine.limits import CALLS_MAX
from engine.patching.operations import Control
from engine.patching.scenario_decorator import scenario
from engine.patching.scenario_files import load_scenarios
from engine.patching.scenario_record import Scenario, Setup

__all__ = ("CALLS_MAX", "Control", "Scenario", "Setup", "load_scenarios", "scenario")
