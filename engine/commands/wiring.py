"""The one file of the engine that imports arch_x86: the names there that the commands use.

A module is loaded when a command asks for one of its names, so ``--help``, ``--version`` and
``steps`` load no emulator, and ``run`` loads nothing that explores. The names do not stand in
cli.py, since the commands import them, and cli.py imports the commands.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from arch_x86.emu.sigint import interruptible
    from arch_x86.explore.exhibits.museum import EXHIBITS
    from arch_x86.explore.scenarios.steps import SHOWN
    from arch_x86.explore.x86_setup import X86Setup
    from arch_x86.images import load_image
    from arch_x86.lab.demo import run_demo
    from arch_x86.lab.inspect_image import inspect_image
    from arch_x86.lab.jobs import VerifyResult, verify_image
    from arch_x86.lab.litmus import LitmusResult, run_litmus
    from arch_x86.lab.litmus_verdict import Cell, sums
    from arch_x86.lab.redzone import with_red_zone
    from arch_x86.lab.run import ExecOptions, RunResult, run_image
    from arch_x86.lab.run_script import run_script
    from arch_x86.lab.verify import parse_sweep

__all__ = (
    "EXHIBITS",
    "SHOWN",
    "Cell",
    "ExecOptions",
    "LitmusResult",
    "RunResult",
    "VerifyResult",
    "X86Setup",
    "inspect_image",
    "interruptible",
    "load_image",
    "parse_sweep",
    "run_demo",
    "run_image",
    "run_litmus",
    "run_script",
    "sums",
    "verify_image",
    "with_red_zone",
)

_NAMES_OF: Final = {
    "arch_x86.emu.sigint": "interruptible",
    "arch_x86.explore.exhibits.museum": "EXHIBITS",
    "arch_x86.explore.scenarios.steps": "SHOWN",
    "arch_x86.explore.x86_setup": "X86Setup",
    "arch_x86.images": "load_image",
    "arch_x86.lab.demo": "run_demo",
    "arch_x86.lab.inspect_image": "inspect_image",
    "arch_x86.lab.jobs": "VerifyResult verify_image",
    "arch_x86.lab.litmus": "LitmusResult run_litmus",
    "arch_x86.lab.litmus_verdict": "Cell sums",
    "arch_x86.lab.redzone": "with_red_zone",
    "arch_x86.lab.run": "ExecOptions RunResult run_image",
    "arch_x86.lab.run_script": "run_script",
    "arch_x86.lab.verify": "parse_sweep",
}
"""The names of this module, by the modules that define them."""

# A type checker takes the imports above, and so reports a name that does not exist.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Load the module that defines ``name``, and return what it has under that name now."""
        from importlib import import_module

        for module, names in _NAMES_OF.items():
            if name in names.split():
                return getattr(import_module(module), name)
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
