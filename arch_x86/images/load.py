"""Reading an image from a file, by what the file holds."""

from __future__ import annotations

import stat
from collections.abc import Collection, Sequence
from pathlib import Path
from typing import Final

from arch_x86.images.asmtext import load_asm
from arch_x86.images.codeimage import load_code_image
from arch_x86.images.elf import load_elf
from arch_x86.images.elf_header import ELF_MAGIC
from arch_x86.images.memory import IMAGE_LIMIT, printable
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
    """The image in the file at ``path``: an ELF file or a code image by its content, else assembly
    by its name.

    :param text_base: page to load the image at, where its format leaves that open; 0x10000000 by
        default.
    :param libraries: shared objects that define what an ELF image lacks, in look-up order. The
        dynamic linker that one of them names (PT_INTERP) is loaded too where it defines something
        that nobody else does: glibc keeps its CPU features there.
    :param stubs: functions that get a value from the user, so that no library defines them.
    :param executes: False: nothing will be run, so data that would be copied from a library may be
        missing.
    :raises InputError: no such file, or nothing that can be loaded, or a stub that nothing would
        call; one line that says why.
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
    if data.startswith(ELF_MAGIC):
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
        return load_code_image(text, name)
    if assembly:
        return load_asm(text, name, text_base)
    raise InputError(f"{name}: neither an ELF file nor a code image; {_WANTED}")


def _name(path: str | Path) -> str:
    return printable(Path(path).name or str(path))


def _read_interpreter(path: str) -> bytes | None:
    """The dynamic linker at ``path``, None where this machine has none there."""
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
        if not stat.S_ISREG(mode):  # reading a FIFO would wait for a writer, a device may never end
            raise InputError(f"{shown}: not a regular file; {_WANTED}")
        with path.open("rb") as file:
            # that much room is taken before a byte is read
            data = file.read(min(found.st_size, IMAGE_LIMIT) + 1)
    except FileNotFoundError:
        raise InputError(f"{shown}: no such file; {_WANTED}") from None
    except (OSError, ValueError) as error:  # ValueError: a null character in the path
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
