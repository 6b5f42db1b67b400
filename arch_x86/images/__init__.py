"""This room makes images of ELF files, code images and assembly, as ld.so and kernel/module.c do.

An image is an :class:`engine.image.Image`. The room is a linker without an emulator: it lays out
sections and segments, relocates them, and binds names to each other. The one exported function that
most callers need is :func:`load_image`.
"""

from __future__ import annotations

from arch_x86.images.asmtext import load_asm
from arch_x86.images.codeimage import load_code_image
from arch_x86.images.elf import load_elf
from arch_x86.images.image_file import load_image
from engine.syntax.stub_texts import parse_stub

__all__ = ("load_asm", "load_code_image", "load_elf", "load_image", "parse_stub")
