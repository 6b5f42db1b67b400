"""Shared by the tests of check, explore, replay and matrix."""

from __future__ import annotations

import pytest

from tests.cli.searches import CODE


@pytest.fixture
def image(tmp_path) -> str:
    """The file with the function ``work``."""
    file = tmp_path / "work.s"
    file.write_text(".globl work\n" + CODE)
    return str(file)
