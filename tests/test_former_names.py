"""Scripts that users wrote before modules moved into rooms still find what they import."""

from __future__ import annotations

from collections import Counter
from importlib import import_module
from pathlib import Path

import pytest

import optprobe

FORMER = {
    "arch_x86.explore.control": ("engine.patching.operations", ("Control",)),
    "arch_x86.emu.images": (
        "arch_x86.images",
        ("load_asm", "load_code_image", "load_elf", "load_image", "parse_stub"),
    ),
    "engine.profile": (
        "engine.core.profiles",
        ("LINUX_2010", "LINUX_6_1", "NEXT", "PROFILES", "Profile", "profile_named"),
    ),
    "engine.kretprobes": ("engine.kretprobe", ("Kretprobe", "KretprobeInstance")),
    "engine.jprobes": ("engine.jprobe", ("Jprobe",)),
    "engine.switches": (
        "engine.core.global_switches",
        ("set_kprobes_enabled", "set_kprobes_optimization"),
    ),
    "engine.steps": ("engine.core.ablation", ("steps_of", "without")),
}


@pytest.mark.parametrize("name", ["Control", "Scenario", "Setup", "load_scenarios", "scenario"])
def test_files_of_scenarios_import_from_where_they_always_did(name):
    former = getattr(import_module("arch_x86.explore.scenario"), name)
    assert former is getattr(optprobe, name, former)
    assert former.__module__.startswith("engine.patching.")


@pytest.mark.parametrize("former", list(FORMER))
def test_a_former_name_gives_what_stands_under_the_present_one(former):
    present, names = FORMER[former]
    for name in names:
        assert getattr(import_module(former), name) is getattr(import_module(present), name)


def test_no_two_modules_have_one_name_but_those_that_keep_a_former_one():
    """A traceback, an editor's tab and a question name a module without its package."""
    root = Path(optprobe.__file__).parents[1]
    kept = {f"{name.replace('.', '/')}.py" for name in FORMER}
    files = [
        file.relative_to(root)
        for package in ("engine", "arch_x86", "optprobe")
        for file in sorted((root / package).rglob("*.py"))
        if not file.name.startswith("__") and str(file.relative_to(root)) not in kept
    ]
    assert len(files) > 200
    names = Counter(file.name for file in files)
    assert [str(file) for file in files if names[file.name] > 1] == []
