"""One control task beside calls of a function ``f``, as most tests of the explorer have it."""

from __future__ import annotations

from engine.core.ablation import without
from engine.core.profiles import Profile
from engine.image import Image
from engine.patching.experiment import Experiment
from engine.syntax.arguments import parse_argument


def experiment(
    image: Image, code, *, steps=(), profile: Profile, preempt: bool = False, **fields
) -> Experiment:
    """``f(5)`` once on each vCPU, unless ``fields`` says otherwise, while ``code`` runs; without
    the safety ``steps``.
    """
    ablated = without(profile, frozenset(steps), preempt=preempt)
    return Experiment(
        image=image,
        call="f",
        arguments=(parse_argument("5"),),
        calls=fields.pop("calls", 1),
        profile=ablated,
        preempt=preempt,
        code=[("main", code)],
        tag="test",
        **fields,
    )
