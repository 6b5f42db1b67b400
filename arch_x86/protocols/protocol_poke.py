"""A patch protocol in the place of a poke protocol (:class:`arch_x86.text.poke.PokeProtocol`).

So kprobes, and whoever else writes text by a poke protocol, can write it by any patch protocol.
"""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

from arch_x86.isa.onward import onward
from arch_x86.protocols.protocol import Patch, Patcher, PatchProtocol, Run
from arch_x86.text.poke import PokeFactory, TextControl, TextPokeParam, require_sizes
from arch_x86.text.space import STORE_SIZES, TextSpace
from engine.errors import InputError, OptprobeError
from engine.patching.code_limit import EndlessCodeError
from engine.patching.error_in_file import error_in_file, is_of_users_code

__all__ = ("BYTE_SYNC", "ProtocolPoke", "poke_factory")

BYTE_SYNC: Final = "5c02ece81848"
"""The core sync behind a probe's breakpoint, in or out, by the commit that added it."""
_OWN: Final = Path(__file__).parent
"""Where the protocols are that come along."""


class ProtocolPoke:
    """Writes text by ``protocol``.

    A single byte, such as a probe's breakpoint, is one store with a core sync behind it.
    :data:`BYTE_SYNC` is the name of that sync.

    :param without: the names of the steps that are left out.
    """

    def __init__(
        self,
        protocol: PatchProtocol,
        without: frozenset[str],
        text: TextSpace,
        plane: TextControl,
        _steps: frozenset[str],
    ) -> None:
        self._protocol = protocol
        self._text = text
        steps = {*protocol.steps, BYTE_SYNC}
        self._patcher = Patcher(text, plane, steps=steps, without=without)

    def text_poke(self, addr: int, data: bytes, reason: str) -> None:
        """Write bytes that no CPU executes yet, or any more."""
        self._text.write(addr, data, reason=reason)

    def text_poke_bytes(self, params: Sequence[TextPokeParam]) -> None:
        """Store each byte, with one core sync behind it."""
        require_sizes(params, most=1)
        for param in params:
            self._text.write(param.addr, param.data, reason=param.reason)
            self._patcher.sync(param.reason, step=BYTE_SYNC)

    def text_poke_jumps(self, params: Sequence[TextPokeParam]) -> None:
        """Replace what is at each place by the protocol."""
        if params:
            self.patch(self._patches(params, owned=False))

    def text_poke_breakpoints(self, params: Sequence[TextPokeParam]) -> None:
        """Replace jumps by breakpoints, which have a handler, by the protocol."""
        if params:
            self.patch(self._patches(params, owned=True))

    def patch(self, patches: Iterable[Patch]) -> None:
        """Make ``patches`` by the protocol.

        :raises InputError: the protocol's function has raised an error.
        """
        run = self._protocol.run
        file = getattr(run, "__code__", self.patch.__code__).co_filename
        try:
            run(self._patcher, list(patches))
        except EndlessCodeError:  # Its message has the place already.
            raise
        except BaseException as error:
            own = Path(file).is_relative_to(_OWN)  # The protocols that come along need no line.
            if not is_of_users_code(error) or (own and isinstance(error, OptprobeError)):
                raise
            raise InputError(error_in_file(error, file)) from None

    def patches_of(
        self,
        places: Sequence[tuple[int, bytes, str]],
        moves: Sequence[tuple[int, int]] = (),
        return0: int | None = None,
    ) -> list[Patch]:
        """Return the patches that put code at places: the address, the code, and the reason.

        :param return0: the address of ``__static_call_return0()``, or None.
        :param moves: the matching places of the old code and the new, which the first patch has.
        """
        return [
            Patch(
                addr,
                old := self._text.read(addr, len(new)),
                new,
                self._text.read(addr + len(new), max(STORE_SIZES)),
                reason,
                onward(old, addr, return0),
                onward(new, addr, return0),
                tuple(moves) if number == 0 else (),
            )
            for number, (addr, new, reason) in enumerate(places)
        ]

    @property
    def suspends(self) -> bool:
        """Whether the protocol has suspended tasks."""
        return self._patcher.suspends

    @property
    def defers(self) -> bool:
        """Whether the protocol has come to a core sync that leaves out CPUs in user mode."""
        return self._patcher.defers

    @property
    def allocates(self) -> bool:
        """Whether the protocol has allocated memory."""
        return self._patcher.allocates

    @property
    def covers_jumps(self) -> bool:
        """Whether a breakpoint stood over a probe's jump while CPUs ran."""
        return self._patcher.covers_jumps

    def bp_holds(self, addr: int) -> bool:
        """Return whether the protocol handles a breakpoint at ``addr`` now."""
        array = self._patcher.array
        return addr in self._patcher.held if array is None else array.published

    def bp_poke(self, addr: int) -> TextPokeParam | None:
        """Return how a CPU goes on that has hit the protocol's breakpoint at ``addr``."""
        array = self._patcher.array
        if array is not None:
            return array.find(addr)
        return self._patcher.held.get(addr, self._patcher.last)

    @property
    def state(self) -> tuple[object, ...]:
        """The breakpoints that the handler knows, and the last one that it was told of."""
        patcher = self._patcher
        known = (sorted(patcher.held.items()), patcher.last)
        return known if patcher.array is None else (*known, *patcher.array.state)

    def _patches(self, params: Sequence[TextPokeParam], *, owned: bool) -> list[Patch]:
        return [
            Patch(
                param.addr,
                self._text.read(param.addr, len(param.data)),
                param.data,
                self._text.read(param.addr + len(param.data), max(STORE_SIZES)),
                param.reason,
                None,
                param.goes_on,
                owned=owned,
            )
            for param in params
        ]


@dataclass(frozen=True)
class _Factory:
    """What makes a poke protocol of a patch protocol.

    It holds plain values and the protocol's function, so that experiments with different protocols,
    or with different steps left out, have different fingerprints.
    """

    name: str
    run: Run
    steps: tuple[tuple[str, str], ...]
    left_out: tuple[str, ...]

    def __call__(
        self, text: TextSpace, plane: TextControl, without: frozenset[str]
    ) -> ProtocolPoke:
        protocol = PatchProtocol(self.name, self.run, dict(self.steps))
        return ProtocolPoke(protocol, frozenset(self.left_out), text, plane, without)


def poke_factory(protocol: PatchProtocol, without: frozenset[str]) -> PokeFactory:
    """Return what makes a poke protocol of ``protocol``.

    :param without: the names of its steps that are left out.
    """
    steps = tuple(sorted(protocol.steps.items()))
    return _Factory(protocol.name, protocol.run, steps, tuple(sorted(without)))
