"""The control task of ``optprobe check``: the whole life of the probes that it is given."""

from __future__ import annotations

from collections.abc import Callable, Sequence

from engine.patching.operations import Control
from engine.syntax.kprobe_events import ProbeSpec

__all__ = ("life_of_probes",)


def life_of_probes(specs: Sequence[ProbeSpec]) -> Callable[[Control], None]:
    """Return the control task of ``check`` for the probes ``specs``.

    It registers the probes, waits for the optimizer, disables and enables them, waits again,
    unregisters them, and waits until all is freed.
    """

    def main(k: Control) -> None:
        returns = [
            k.kretprobe(spec.symbol, spec.maxactive or 8, addr=spec.address)
            for spec in specs
            if spec.is_return
        ]
        plain = [
            k.kprobe(spec.symbol, spec.offset, addr=spec.address)
            for spec in specs
            if not spec.is_return
        ]
        for p in plain:
            k.register(p, must=True)
        for rp in returns:
            k.register_return(rp)
        k.settle()
        probes = [*plain, *(rp.kp for rp in returns)]
        for p in probes:
            k.disable(p)
        for p in probes:
            k.enable(p)
        k.settle()
        if plain:
            k.unregister(*plain)
        for rp in returns:
            k.unregister_return(rp)
        k.settle()

    return main
