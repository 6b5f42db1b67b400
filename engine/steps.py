"""A former name of two modules, kept since scripts of users import it.

They are :mod:`engine.core.ablation` and :mod:`engine.core.safety_steps`.
"""

from engine.core.ablation import steps_of, without
from engine.core.safety_steps import MENDS, STEPS, Step

__all__ = ("MENDS", "STEPS", "Step", "steps_of", "without")
