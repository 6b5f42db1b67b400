"""What the laws of the core share: workbenches of any profile, closed at the end."""

from __future__ import annotations

import pytest

from arch_x86.lab.bench import Workbench
from engine.core.profiles import PROFILES, Profile
from engine.image import Image
from tests.conftest import asm_image

TARGETS = "mov eax, edi; add eax, 3; nop; nop; ret", "mov eax, edi; add eax, 5; nop; nop; ret"


@pytest.fixture(params=PROFILES, ids=lambda profile: profile.name)
def profile(request) -> Profile:
    """Every profile in turn."""
    return request.param


@pytest.fixture
def bench_of(pool):
    """``bench_of(profile, image, cpus=1)`` makes a workbench.

    Its image, if none is given, has f(n) = n + 3 and g(n) = n + 5.
    """
    made: list[Workbench] = []

    def make(profile: Profile, image: Image | None = None, **options) -> Workbench:
        made.append(Workbench(image or asm_image(*TARGETS), pool=pool, profile=profile, **options))
        return made[-1]

    yield make
    for bench in made:
        bench.close()
