"""This module binds an image's and its libraries' names (glibc's elf/dl-lookup.c, dl-reloc.c).

A name is looked up in the image and then in the libraries in their order; versions are ignored. The
project's own functions stand in for what needs an operating system, or is missing:

* Its allocator and its ``__tls_get_addr`` win over those of the libraries, and over those of an
  image that is a C library itself.
* The functions that end a program (``exit``, ``abort``) are stand-ins that trap, in place of those
  of the libraries.
* Plain versions of common functions (:mod:`arch_x86.images.routines`) come behind the libraries.
* A name that is still undefined gets a stand-in (:mod:`arch_x86.images.undefined`).
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

from arch_x86.images.elf_records import STB_LOCAL, STT_NOTYPE, ElfSymbol
from arch_x86.images.image_memory import Area, Memory, page_up
from arch_x86.images.module import Definition, DefinitionKind, Module, Use
from arch_x86.images.routines import ENDINGS, INTERPOSED, ROUTINES
from arch_x86.images.runtime import Runtime, place_runtime
from arch_x86.images.threads import ThreadLayout
from arch_x86.images.undefined import StandIns, Wanted, place_stand_ins
from arch_x86.isa.constants import INT3
from arch_x86.probes.areas import IMPORT_CELL
from engine.errors import InputError
from engine.image import DeferredRelocation, Symbol

__all__ = ("Interpreter", "Linked", "link")

Interpreter = Callable[[str, Collection[str]], Module | None]
"""Such a function loads the dynamic linker at a path (PT_INTERP) as one more library.

It is given the path and the names that are missing. It returns None where there is no such file, or
the file has none of the names.
"""

_THREAD_SETUP: Final = ("__ctype_init",)
"""These functions of glibc run first in each thread, and need no operating system.

glibc's dynamic linker calls them by ``__libc_early_init``.
"""
_C_LIBRARY: Final = frozenset(("malloc", "__libc_start_main"))
_PLT_SIZE: Final = 1 << 16
_PLT_ENTRY: Final = 16
_PLT_JUMP: Final = b"\xff\x25"


@dataclass(frozen=True, slots=True)
class Linked:
    """This record holds what binding adds to an image.

    :ivar deferred: relocations that take running code: a resolver's answer goes to a word.
    :ivar thread_image: what the memory right below each CPU's thread pointer holds at first.
    :ivar thread_setup: addresses of functions that each CPU calls once before anything else.
    :ivar symbols: symbols of the PLT entries that were added.
    """

    stand_ins: StandIns
    runtime: Runtime
    deferred: tuple[DeferredRelocation, ...]
    thread_image: bytes
    thread_setup: tuple[int, ...]
    symbols: tuple[Symbol, ...]


def link(
    modules: list[Module],
    memory: Memory,
    stubs: Collection[str] = (),
    interpreter: Interpreter | None = None,
) -> Linked:
    """Relocate ``modules`` against each other and return what that adds to the image.

    The dynamic linker that a module names is appended to ``modules`` if a name is undefined without
    it.

    :param modules: the image, then its libraries in look-up order.
    :param memory: the memory that all of them lie in; what is added goes behind them.
    :param stubs: names that no library defines, since the user gives their functions a value.
    :param interpreter: loads the dynamic linker that a file names; None loads none.
    :raises InputError: a relocation is not supported or does not fit, or a limit is exceeded.
    """
    threads = ThreadLayout(modules[0].name)
    for module in modules:
        if module.thread is not None:
            threads.place(module.thread)
    names = _Names(modules, stubs)
    if interpreter is not None and (
        missing := {name for name in names.wanted() if not names.is_ours(name)}
    ):
        for path in dict.fromkeys(module.interpreter for module in modules if module.interpreter):
            found = interpreter(path, missing)
            if found is not None:
                if found.thread is not None:
                    threads.place(found.thread)
                modules.append(found)
                names = _Names(modules, stubs)
                break
    wanted = names.wanted()
    descriptors = (
        ["_dl_tlsdesc_return"] if any(module.has_descriptors for module in modules) else []
    )
    runtime = place_runtime(memory, threads, [*names.routines(wanted), *descriptors])
    wanted = {name: want for name, want in wanted.items() if name not in runtime.definitions}
    binder = _Binder(memory, names, runtime, place_stand_ins(memory, wanted), threads)
    # Libraries are relocated before the modules that are looked up before them: the resolvers of
    # those may call functions of the libraries.
    for module in reversed(modules):
        module.relocate(binder)
    return binder.finish(
        [names.defined[name].addr for name in _THREAD_SETUP if name in names.defined]
    )


class _Names:
    """This class knows which module defines each name, and which names the relocations use.

    :ivar defined: the definition that a name has for relocations.
    :ivar of_libraries: the libraries' own definitions, also those that lose to a routine of the
        project.
    """

    def __init__(self, modules: Sequence[Module], stubs: Collection[str]) -> None:
        self.defined = dict(modules[0].exports())
        # An image that is a C library has an allocator that needs an operating system, as those of
        # the libraries do, so it loses to the project's.
        if self.defined.keys() >= _C_LIBRARY:
            self.defined = {
                name: definition
                for name, definition in self.defined.items()
                if name not in INTERPOSED
            }
        self.of_libraries: dict[str, Definition] = {}
        for module in modules[1:]:
            for name, definition in module.exports().items():
                self.of_libraries.setdefault(name, definition)
                if not (name in INTERPOSED or name in ENDINGS or name in stubs):
                    self.defined.setdefault(name, definition)
        self._stubs = stubs
        self._references: dict[str, Wanted] = {}
        for module in modules:
            for symbol, use in module.references():
                if not symbol.name or symbol.bind == STB_LOCAL:
                    continue
                want = self._references.setdefault(symbol.name, Wanted())
                want.use |= use
                want.weak &= symbol.weak
                if want.type == STT_NOTYPE:
                    want.type = symbol.type

    def wanted(self) -> dict[str, Wanted]:
        """Return the names that relocations use and no module's definition serves, by first use."""
        return {name: want for name, want in self._references.items() if name not in self.defined}

    def routines(self, wanted: dict[str, Wanted]) -> list[str]:
        """Return those of the ``wanted`` names that a routine of the project defines.

        A weak name is left out unless it is called, for code may compare its address with 0 to see
        whether it is defined.
        """
        called = (name for name, want in wanted.items() if not want.weak or Use.CALL in want.use)
        return [name for name in called if name in ROUTINES and name not in self._stubs]

    def is_ours(self, name: str) -> bool:
        """Return True when a routine, a trap or a stub serves this name, so no file has to."""
        return name in ROUTINES or name in ENDINGS or name in self._stubs


@dataclass(slots=True)
class _Binder:
    """This class is the :class:`~arch_x86.images.module.Bindings` of the modules that are linked.

    :ivar copies: data to be copied once all is relocated: its definition, its new place, its size
        in bytes.
    :ivar plt: name by the resolver's address, for each indirect function that is called directly.
    """

    memory: Memory
    names: _Names
    runtime: Runtime
    stand_ins: StandIns
    threads: ThreadLayout
    deferred: list[DeferredRelocation] = field(default_factory=list[DeferredRelocation])
    copies: list[tuple[Definition, int, int]] = field(
        default_factory=list[tuple[Definition, int, int]]
    )
    plt: dict[int, str] = field(default_factory=dict[int, str])
    _plt_base: int = 0

    def __post_init__(self) -> None:
        self._plt_base = page_up(self.memory.end + IMPORT_CELL * len(self.stand_ins.imports))

    def find(
        self, module: Module, symbol: ElfSymbol, own: Definition | None, use: Use
    ) -> Definition | None:
        """Return what ``symbol`` stands for in a relocation of ``module``; None means address 0.

        Local symbols are the module's own. A global name goes to the modules, then to the routines,
        then to a stand-in. A weak name takes a routine only where it is called. A thread-local name
        that nothing defines gets a slot of zeros.
        """
        if not symbol.name or symbol.bind == STB_LOCAL:
            return own
        found = self.names.defined.get(symbol.name)
        if found is not None:
            return own if own is not None and found.owner == module.name else found
        found = self.runtime.definitions.get(symbol.name)
        if found is not None and (not symbol.weak or use is Use.CALL):
            return found
        if use is Use.THREAD:
            return own or Definition(self.threads.slot(symbol.name), kind=DefinitionKind.THREAD)
        found = self.stand_ins.find(symbol.name, use)
        return own if found is None else found

    def callable(self, definition: Definition, name: str) -> int:
        if definition.kind is not DefinitionKind.INDIRECT:
            return definition.addr
        self.plt.setdefault(definition.addr, name)
        index = list(self.plt).index(definition.addr)
        if _PLT_ENTRY * (index + 1) > _PLT_SIZE:
            raise InputError(
                f"more than {_PLT_SIZE // _PLT_ENTRY} indirect functions are called directly; the"
                " file is damaged"
            )
        return self._plt_base + _PLT_ENTRY * index

    def defer(self, place: int, resolver: int, addend: int, name: str) -> None:
        self.deferred.append(DeferredRelocation(place, resolver, addend, name))

    def copy(self, name: str, place: int, size: int) -> bool:
        found = self.names.of_libraries.get(name)
        if found is None or found.kind is not DefinitionKind.PLAIN:
            return False
        self.copies.append((found, place, size))
        return True

    @property
    def descriptor_resolver(self) -> int:
        return self.runtime.definitions["_dl_tlsdesc_return"].addr

    def finish(self, thread_setup: list[int]) -> Linked:
        """Do what had to wait for all relocations, and return what binding adds to the image.

        :param thread_setup: addresses of functions that each CPU calls once before anything else.
        :raises InputError: data to be copied lies outside of the segments.
        """
        for definition, place, size in self.copies:
            data = self.memory.read(definition.addr, min(size, definition.size))
            if data is None or not self.memory.fill(place, data):
                raise InputError(
                    f"data copied to {place:#x} lies outside of the segments; the file is damaged"
                )
        symbols = self._place_plt()
        content = self.threads.content(self.memory)
        return Linked(
            self.stand_ins,
            self.runtime,
            tuple(self.deferred),
            content,
            tuple(thread_setup),
            symbols,
        )

    def _place_plt(self) -> tuple[Symbol, ...]:
        """Append PLT entries for indirect functions that are called directly, as linkers make them.

        Each entry jumps through a word of its own, which the resolver's answer fills.
        """
        if not self.plt:
            return ()
        start, slots = self._plt_base, self._plt_base + _PLT_SIZE
        code = bytearray()
        for index, (resolver, name) in enumerate(self.plt.items()):
            slot = slots + 8 * index
            jump = _PLT_JUMP + (slot - (start + len(code) + 6)).to_bytes(4, "little")
            code += jump.ljust(_PLT_ENTRY, INT3)
            self.deferred.append(DeferredRelocation(slot, resolver, 0, name))
        self.memory.append(Area(start, code, len(code), executable=True))
        self.memory.append(
            Area(slots, bytearray(8 * len(self.plt)), 8 * len(self.plt), writable=True)
        )
        return tuple(
            Symbol(f"{name}@plt", start + _PLT_ENTRY * i, 6)
            for i, name in enumerate(self.plt.values())
            if name
        )
