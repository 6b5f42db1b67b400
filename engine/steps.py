"""The name that :mod:`engine.core.ablation` and :mod:`engine.core.safety_steps` had. Scripts of
users import it.
"""

from engine.core.ablation import steps_of, without
from engine.core.safety_steps import MENDS, STEPS, Step

__all__ = ("MENDS", "STEPS", "Step", "steps_of", "without")
