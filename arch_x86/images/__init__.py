"""This room makes images of ELF files, code images and assembly, as ld.so and kernel/module.c do.

An image is an :class:`engine.image.Image`. The room is a linker without an emulator: it lays out
sections and segments, relocates them, and binds names to each other. The one exported function that
most callers need is :func:`load_image`.
"""

from __future__ import annotations

from typing import TYPE_CHECKING, Final

if TYPE_CHECKING:
    from arch_x86.images.asmtext import load_asm
    from arch_x86.images.codeimage import load_code_image
    from arch_x86.images.elf import load_elf
    from arch_x86.images.image_file import load_image
    from engine.syntax.stub_texts import parse_stub

__all__ = ("load_asm", "load_code_image", "load_elf", "load_image", "parse_stub")

_MODULE_OF: Final = {
    "load_asm": "arch_x86.images.asmtext",
    "load_code_image": "arch_x86.images.codeimage",
    "load_elf": "arch_x86.images.elf",
    "load_image": "arch_x86.images.image_file",
    "parse_stub": "engine.syntax.stub_texts",
}
"""The modules that define the names of this one. Each is loaded when its name is first asked for,
since an ELF file needs no assembler, and assembly no ELF library.
"""

# A type checker takes the imports above, and says so where a name is not there.
if not TYPE_CHECKING:

    def __getattr__(name: str) -> object:
        """Load a name when it is first asked for."""
        from importlib import import_module

        if name not in _MODULE_OF:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = globals()[name] = getattr(import_module(_MODULE_OF[name]), name)
        return found
