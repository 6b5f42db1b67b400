"""This module makes one image of an ELF file and its libraries, as ld.so does."""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Final

from arch_x86.images.elf_file import ElfFile
from arch_x86.images.elf_rel import RelModule
from arch_x86.images.image_memory import DEFAULT_BASE, Memory, check_base
from arch_x86.images.link import Linked, link
from arch_x86.images.module import Module
from arch_x86.isa.constants import PAGE_SIZE
from engine.errors import InputError
from engine.image import Image, Symbol

if TYPE_CHECKING:
    from arch_x86.images.elf_dyn import DynModule

__all__ = ("load_elf",)

# Two files lie this far apart, so that code which runs off the end of one faults.
_GAP: Final = 16 * PAGE_SIZE


def load_elf(
    data: bytes,
    name: str,
    base: int | None = None,
    *,
    libraries: Sequence[tuple[str, bytes]] = (),
    stubs: Collection[str] = (),
    interpreter: Callable[[str], bytes | None] | None = None,
    executes: bool = True,
) -> Image:
    """Return the image of the ELF file ``data``.

    It may be an x86-64 relocatable object (``.o``, ``.ko``), an executable, or a shared object.

    :param name: what to call the file, in the image and in messages.
    :param base: the address of the page to load the image at, 0x10000000 by default; an executable
        that is linked at fixed addresses takes none.
    :param libraries: the names and contents of shared objects that define what the image lacks, in
        look-up order.
    :param stubs: names that no library may define, since the user gives their functions a value.
    :param interpreter: reads the dynamic linker at a path, and returns None where there is none.
        The dynamic linker that a file names is loaded, too, if it defines names that no other file
        defines.
    :param executes: False when no code will be run, so that data may be missing that would be
        copied from a library.
    :raises InputError: the file is of another kind, damaged, or over the limits, or it cannot be
        relocated.
    """
    elf = ElfFile(data, name)
    if base is not None and elf.type not in ("ET_REL", "ET_DYN"):
        raise InputError(
            f"{name}: an executable linked at fixed addresses cannot be moved to {base:#x}; leave"
            " the text base out"
        )
    if elf.type == "ET_REL":
        main: RelModule | DynModule = RelModule(
            elf, check_base(name, DEFAULT_BASE if base is None else base)
        )
        memory = main.memory
    else:
        from arch_x86.images.elf_dyn import DynModule  # an object file without libraries needs none

        fixed = elf.type != "ET_DYN"
        start = None if fixed else check_base(name, DEFAULT_BASE if base is None else base)
        main = DynModule(elf, memory := Memory(name, ()), start, executes=executes)
    modules: list[Module] = [main, *(_library(memory, data, file) for file, data in libraries)]

    def dynamic_linker(path: str, missing: Collection[str]) -> Module | None:
        content = interpreter(path) if interpreter is not None else None
        if not content:
            return None
        file = path.rpartition("/")[2]
        # What is once in ``memory`` stays there, so the exports are read from a trial elsewhere.
        trial = _library(Memory(file, ()), content, file)
        return (
            None if trial.exports().keys().isdisjoint(missing) else _library(memory, content, file)
        )

    linked = link(modules, memory, stubs, dynamic_linker)
    return _image(main, modules[1:], memory, linked)


def _library(memory: Memory, data: bytes, name: str) -> Module:
    elf = ElfFile(data, name)
    if elf.type != "ET_DYN":
        raise InputError(f"{name}: not a shared object; a library named by --with has to be one")
    from arch_x86.images.elf_dyn import DynModule

    return DynModule(elf, memory, memory.end + _GAP)


def _in_lookup_order(*files: Sequence[Symbol]) -> tuple[Symbol, ...]:
    """Return the symbols of all ``files``, those of each file behind those of the files before it.

    So the first symbol of a name is the one that a call by that name reaches. Each later one is
    marked as shadowed.
    """
    result: list[Symbol] = []
    names: set[str] = set()
    for symbols in files:
        result += (
            replace(s, shadowed=True) if s.name in names and not s.shadowed else s for s in symbols
        )
        names.update(s.name for s in symbols)
    return tuple(result)


def _image(
    main: RelModule | DynModule, libraries: Sequence[Module], memory: Memory, linked: Linked
) -> Image:
    found, cut = main.symbols()
    warnings = [*main.warnings, *linked.stand_ins.warnings, *cut]
    theirs: list[Sequence[Symbol]] = []
    for library in libraries:
        symbols, cut = library.symbols()
        theirs.append(symbols)
        warnings += [f"{library.name}: {line}" for line in cut]
    symbols = _in_lookup_order(
        linked.runtime.symbols, found, linked.stand_ins.symbols, *theirs, linked.symbols
    )
    image = Image(
        name=main.name,
        segments=memory.segments(),
        symbols=symbols,
        red_zone=not isinstance(main, RelModule) or bool(libraries),
        red_zone_given=not isinstance(main, RelModule) or bool(libraries),
        imports=tuple(linked.stand_ins.imports),
        indirect_thunks=linked.runtime.thunks,
        deferred=linked.deferred,
        thread_image=linked.thread_image,
        thread_setup=linked.thread_setup,
        entry=None if isinstance(main, RelModule) else main.entry,
        warnings=tuple(warnings),
    )
    if not isinstance(main, RelModule):
        return image
    tables = main.tables(found)
    return replace(
        image,
        exception_table=tables.exception_table,
        reserved=tables.reserved,
        blacklist=tables.blacklist,
        preemption=tables.preemption,
        warnings=(*warnings, *tables.warnings),
    )
