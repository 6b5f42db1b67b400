"""Binding the names of an image and its libraries to each other, as ld.so would. Answers to glibc's
elf/dl-lookup.c, dl-reloc.c.

A name is looked up in the image, then in the libraries in their order; versions are ignored. Before
the libraries, and before an image that is a C library itself, come our own allocator and the
functions that end a program: a library's need a system. Behind them come our own plain versions of
the common functions (:mod:`arch_x86.images.routines`). What remains gets a stand-in.
"""

from __future__ import annotations

from collections.abc import Callable, Collection, Sequence
from dataclasses import dataclass, field
from typing import Final

from arch_x86.images.elf_records import STB_LOCAL, STT_NOTYPE, ElfSymbol
from arch_x86.images.memory import Area, Memory, page_up
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
"""Loads the dynamic linker that a file names (PT_INTERP), as one more library; None where there is
none, or it has none of the names.
"""

_THREAD_SETUP: Final = ("__ctype_init",)
"""What glibc's dynamic linker calls in each thread before anything else (``__libc_early_init``) and
needs no system for.
"""
_C_LIBRARY: Final = frozenset(("malloc", "__libc_start_main"))
_PLT_SIZE: Final = 1 << 16
_PLT_ENTRY: Final = 16
_PLT_JUMP: Final = b"\xff\x25"


@dataclass(frozen=True, slots=True)
class Linked:
    """What binding adds to an image."""

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
    """Relocate ``modules``, the image first. The dynamic linker that one names is added to them if
    a name is undefined without it.

    :param memory: theirs; all that is added goes behind.
    :param stubs: names that no library defines, whatever it says: the user gives them a value.
    :raises InputError: a relocation that is not supported or does not fit.
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
    # libraries first: the resolvers of those before them may call them
    for module in reversed(modules):
        module.relocate(binder)
    return binder.finish(
        [names.defined[name].addr for name in _THREAD_SETUP if name in names.defined]
    )


class _Names:
    """Who defines what, and what is asked for."""

    def __init__(self, modules: Sequence[Module], stubs: Collection[str]) -> None:
        self.defined = dict(modules[0].exports())
        # its allocator needs a system too, wherever it stands
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
        """Names that relocations use and no module gives, in the order of their first use."""
        return {name: want for name, want in self._references.items() if name not in self.defined}

    def routines(self, wanted: dict[str, Wanted]) -> list[str]:
        """Those of the ``wanted`` that a routine of ours defines; a weak one only if it is
        called.
        """
        called = (name for name, want in wanted.items() if not want.weak or Use.CALL in want.use)
        return [name for name in called if name in ROUTINES and name not in self._stubs]

    def is_ours(self, name: str) -> bool:
        """True when neither libraries nor a dynamic linker give this name."""
        return name in ROUTINES or name in ENDINGS or name in self._stubs


@dataclass(slots=True)
class _Binder:
    """:class:`arch_x86.images.module.Bindings`."""

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
        """Place what relocating has asked for."""
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
        """A jump through a word of its own for each indirect function that is called directly, as
        linkers make it.
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
