"""Images from files: ELF, code-image JSON and assembly text into :class:`engine.image.Image`."""

from __future__ import annotations

from arch_x86.images.asmtext import load_asm
from arch_x86.images.codeimage import load_code_image
from arch_x86.images.elf import load_elf
from arch_x86.images.load import load_image
from engine.syntax.stub_texts import parse_stub

__all__ = ("load_asm", "load_code_image", "load_elf", "load_image", "parse_stub")
