"""The laws of an architecture, on a made-up one and on x86-64."""

from __future__ import annotations

import pytest

from arch_x86.lab.bench import Workbench
from tests.conformance.fake_arch import FakeLab
from tests.conformance.laws import ArchLaws
from tests.conftest import BASE, asm_image


class X86Lab:
    """An x86-64 machine (:class:`tests.conformance.laws.Lab`) with f(n) = n + 6."""

    function, site, neighbour, inside = "f", 0, 3, 1

    def __init__(self, profile, pool) -> None:
        self.bench = Workbench(
            asm_image("lea eax, [rdi + 1]; add eax, 2; add eax, 3; ret"), pool=pool, profile=profile
        )
        self.kprobes = self.bench.kprobes
        self._size = self.bench.image.by_name["f"].size

    def text(self) -> bytes:
        return self.bench.machine.text.read(BASE, self._size)

    def call(self, argument: int) -> int:
        return self.bench.call("f", argument)

    def call_in_handler(self, argument: int) -> int:
        return self.bench.call_nested(0, BASE, argument)

    def copies(self) -> int:
        return self.bench.arch.slots.used + self.bench.arch.detours.used


class TestTheFakeArchitecture(ArchLaws):
    @pytest.fixture
    def lab(self, profile):
        return FakeLab(profile)


class TestX86(ArchLaws):
    @pytest.fixture
    def lab(self, profile, pool):
        lab = X86Lab(profile, pool)
        yield lab
        lab.bench.close()
