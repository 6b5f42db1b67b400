"""Machines made of ELF files."""

from __future__ import annotations

import pytest

from arch_x86.images import load_elf
from tests.conftest import Rig


@pytest.fixture
def linked(pool):
    """``linked(image, library, ...)``: a machine without probes that runs ELF files made by the
    builder.
    """
    made: list[Rig] = []

    def make(main, *libraries, cpus: int = 1, config=None, **options):
        files = [(f"lib{number}.so", library.build()) for number, library in enumerate(libraries)]
        image = load_elf(main.build(), "main", libraries=files, **options)
        made.append(Rig(image, pool, cpus, config))
        return made[-1]

    yield make
    for one in made:
        one.machine.close()
