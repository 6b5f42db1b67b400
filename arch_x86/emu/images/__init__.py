"""The name that :mod:`arch_x86.images` had. Scripts of users import it."""

from arch_x86.images import load_asm, load_code_image, load_elf, load_image, parse_stub

__all__ = ("load_asm", "load_code_image", "load_elf", "load_image", "parse_stub")
