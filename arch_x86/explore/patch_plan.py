"""The experiment of ``optprobe patch``: its sites, its control task, and its poke protocol."""

from __future__ import annotations

from collections.abc import Sequence
from functools import partial

from arch_x86.protocols.planning import place_of, planned_sites
from arch_x86.protocols.protocol_names import protocol_named, steps_left_out
from arch_x86.protocols.protocol_poke import ProtocolPoke, poke_factory
from engine.errors import InputError, printable
from engine.image import Image
from engine.kallsyms import Kallsyms
from engine.patching.control_code import ControlCode
from engine.patching.operations import Control
from engine.patching.patch_spec import PatchPlan, PatchSpec
from engine.patching.patched_sites import TextIs
from engine.patching.user_code import source_of

__all__ = ("plan_patch",)

_Places = Sequence[tuple[int, bytes, str]]


def plan_patch(image: Image, spec: PatchSpec) -> PatchPlan:
    """Return what an exploration of the patch ``spec`` in ``image`` needs.

    :raises InputError: something in ``spec`` is wrong.
    """
    protocol = protocol_named(spec.protocol)
    without = steps_left_out(protocol, spec.without)
    sites = planned_sites(image, spec.sites, spec.codes, protocol)
    kallsyms = Kallsyms(image)

    def name(addr: int) -> str:
        found = kallsyms.lookup(addr)
        return f"{addr:#x}" if found is None else f"{found[0].name}+{found[1]:#x}"

    there = [(site.addr, site.new, f"patch {name(site.addr)}") for site in sites]
    back = [(site.addr, site.old, f"put {name(site.addr)} back") for site in sites]
    moves = [_pair(image, word) for word in spec.moves]
    lock = None if spec.lock is None else range(*_ends(image, spec.lock))
    told = (
        [(site.addr, site.new) for site in sites],
        spec.back,
        moves,
        lock,
        protocol.name,
        source_of(protocol.run),
        sorted(without),
        *protocol.guards,
    )
    return PatchPlan(
        sites=sites,
        lock=lock,
        code=_life(there, back if spec.back else [], moves, locked=lock is not None),
        poke=poke_factory(protocol, without),
        protocol=protocol.name,
        tag=repr(told),
    )


def _pair(image: Image, word: str) -> tuple[int, int]:
    """Return the addresses of ``FROM:TO``.

    :raises InputError: ``word`` is no such text.
    """
    first, colon, second = word.partition(":")
    if not colon:
        raise InputError(f"--move {printable(word)}: give FROM:TO, such as f+0x1:copy+0x1")
    return place_of(image, first, "--move"), place_of(image, second, "--move")


def _ends(image: Image, word: str) -> tuple[int, int]:
    """Return the addresses of ``FROM..TO``.

    :raises InputError: ``word`` is no such text.
    """
    first, dots, second = word.partition("..")
    if not dots:
        raise InputError(f"--lock {printable(word)}: give FROM..TO, such as f+0x4..f+0x9")
    begin, end = place_of(image, first, "--lock"), place_of(image, second, "--lock")
    if end <= begin:
        raise InputError(
            f"--lock {printable(word)}: nothing is between these places; give FROM..TO, where TO"
            " is behind FROM"
        )
    return begin, end


def _life(
    there: _Places, back: _Places, moves: Sequence[tuple[int, int]], *, locked: bool
) -> ControlCode:
    """Return the control task: the new code comes, and maybe the old code again.

    :param locked: tasks hold the allocator's lock somewhere.
    """
    returns = [(to, at) for at, to in moves]

    def patcher(k: Control) -> None:
        k.patch(partial(_write, k, there, moves, locked=locked), TextIs.NEW)
        if back:
            k.patch(partial(_write, k, back, returns, locked=locked), TextIs.OLD)

    return patcher


def _write(k: Control, places: _Places, moves: Sequence[tuple[int, int]], *, locked: bool) -> None:
    poke: ProtocolPoke = k.poke
    poke.patch(poke.patches_of(places, moves))
    if moves and not poke.suspends:
        raise InputError(
            "--move: this protocol suspends no task, so none is moved; leave --move out, or give"
            " a protocol such as freeze_and_move"
        )
    if locked and not poke.allocates:
        raise InputError(
            "--lock: this protocol allocates no memory, so it never waits for the allocator's lock;"
            " leave --lock out, or give a protocol such as freeze_and_move"
        )
