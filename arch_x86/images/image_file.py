"""This module reads an image from a file, whose content decides which loader takes it.

An ELF file is known by its first bytes (gABI, chapter 4, "ELF Header"), a code image by being a
JSON object, and assembly by the file's name.
"""

from __future__ import annotations

import stat
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

from arch_x86.images.elf_header import ELF_MAGIC
from arch_x86.images.image_memory import IMAGE_LIMIT, printable
from arch_x86.images.stub import check_stubs
from engine.errors import InputError
from engine.image import Image

__all__ = ("load_image",)

_ASSEMBLY: Final = (".s", ".S", ".asm")
_COMPRESSED: Final = {
    b"\x1f\x8b": "gzip",
    b"\xfd7zXZ": "xz",
    b"\x28\xb5\x2f\xfd": "zstd",
    b"BZh": "bzip2",
}
_FOREIGN: Final = {
    b"!<arch>\n": "an archive; extract the object file",
    b"MZ": "a PE file",
    b"\xcf\xfa\xed\xfe": "a Mach-O file",
}
_WANTED: Final = (
    "give an x86-64 ELF file, a code image (JSON), or assembly in a file named .s, .S or .asm"
)


def load_image(
    path: str | Path,
    *,
    text_base: int | None = None,
    libraries: Sequence[str | Path] = (),
    stubs: Collection[str] = (),
    executes: bool = True,
) -> Image:
    """Return the image in the file at ``path``: an ELF file, a code image, or assembly.

    :param text_base: the address of the page to load the image at, where its format leaves that
        open; 0x10000000 by default.
    :param libraries: shared objects that define what an ELF image lacks, in look-up order. The
        dynamic linker that one of them names (PT_INTERP) is loaded, too, where it defines a name
        that no other file does: glibc keeps its CPU features there.
    :param stubs: functions that get a value from the user, so that no library defines them.
    :param executes: False when no code will be run, so that data may be missing that would be
        copied from a library.
    :raises InputError: there is no such file, or nothing in it that can be loaded, or a stub that
        nothing would call; the message is one line that says why.
    """
    image = _load(path, text_base, libraries, stubs, executes)
    check_stubs(image, stubs)
    return image


def _load(
    path: str | Path,
    text_base: int | None,
    libraries: Sequence[str | Path],
    stubs: Collection[str],
    executes: bool,
) -> Image:
    name = _name(path)
    data = _read(Path(path))
    # Each loader is imported when a file is there for it: an ELF file needs no assembler.
    if data.startswith(ELF_MAGIC):
        from arch_x86.images.elf import load_elf

        others = [(_name(library), _read(Path(library))) for library in libraries]
        return load_elf(
            data,
            name,
            text_base,
            libraries=others,
            stubs=stubs,
            interpreter=_read_interpreter,
            executes=executes,
        )
    if libraries:
        raise InputError(
            f"{name}: not an ELF file, so it has no names to look up in a library; leave --with out"
        )
    assembly = name.endswith(_ASSEMBLY)
    if not assembly:
        _refuse_foreign(data, name)
    try:
        text = data.decode("utf-8-sig")
    except UnicodeDecodeError:
        raise InputError(f"{name}: neither an ELF file nor text; {_WANTED}") from None
    if text.lstrip().startswith("{"):
        if text_base is not None:
            raise InputError(f"{name}: a code image has its own addresses; leave the text base out")
        from arch_x86.images.codeimage import load_code_image

        return load_code_image(text, name)
    if assembly:
        from arch_x86.images.asmtext import load_asm

        return load_asm(text, name, text_base)
    raise InputError(f"{name}: neither an ELF file nor a code image; {_WANTED}")


def _name(path: str | Path) -> str:
    return printable(Path(path).name or str(path))


def _read_interpreter(path: str) -> bytes | None:
    """Return the bytes of the dynamic linker at ``path``, or None where this host has none."""
    try:
        data = _read(Path(path)) if path.startswith("/") else b""
    except InputError:
        return None
    return data if data.startswith(ELF_MAGIC) else None


def _read(path: Path) -> bytes:
    shown = printable(str(path))
    try:
        found = path.stat()
        mode = found.st_mode
        if stat.S_ISDIR(mode):
            raise InputError(f"{shown}: a directory; {_WANTED}")
        # Reading a FIFO would wait for a writer, and a device may have no end.
        if not stat.S_ISREG(mode):
            raise InputError(f"{shown}: not a regular file; {_WANTED}")
        with path.open("rb") as file:
            # read() allocates as much as it is asked for before it reads, so it is asked for no
            # more than the file has. One byte more shows that the file is over the limit.
            data = file.read(min(found.st_size, IMAGE_LIMIT) + 1)
    except FileNotFoundError:
        raise InputError(f"{shown}: no such file; {_WANTED}") from None
    except (OSError, ValueError) as error:  # A null character in the path raises ValueError.
        reason = error.strerror if isinstance(error, OSError) and error.strerror else str(error)
        raise InputError(f"{shown}: cannot be read: {reason}") from None
    if not data:
        raise InputError(f"{shown}: the file is empty; {_WANTED}")
    if len(data) > IMAGE_LIMIT:
        raise InputError(f"{shown}: larger than {IMAGE_LIMIT >> 30} GiB; {_WANTED}")
    return data


def _refuse_foreign(data: bytes, name: str) -> None:
    for magic, how in _COMPRESSED.items():
        if data.startswith(magic):
            raise InputError(f"{name}: compressed with {how}; decompress it first")
    for magic, what in _FOREIGN.items():
        if data.startswith(magic):
            raise InputError(f"{name}: {what}; {_WANTED}")
