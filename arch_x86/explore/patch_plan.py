"""The experiment of ``optprobe patch``: its sites, its control task, and its poke protocol."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from functools import partial

from arch_x86.probes.static_call_sites import return_0_of
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
    lock = None if spec.lock is None else range(*_ends(image, spec.lock, "--lock"))
    user = None if spec.user is None else range(*_ends(image, spec.user, "--user"))
    given = _Given(moves, return_0_of(image), defers=user is not None, locked=lock is not None)
    told = (
        [(site.addr, site.new) for site in sites],
        spec.back,
        moves,
        lock,
        protocol.name,
        source_of(protocol.run),
        sorted(without),
        *([] if user is None else [user]),
        *protocol.guards,
    )
    return PatchPlan(
        sites=sites,
        lock=lock,
        user=user,
        code=_life(there, back if spec.back else [], given),
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


def _ends(image: Image, word: str, option: str) -> tuple[int, int]:
    """Return the addresses of ``FROM..TO``.

    :param option: the option that has it.
    :raises InputError: ``word`` is no such text.
    """
    first, dots, second = word.partition("..")
    if not dots:
        raise InputError(f"{option} {printable(word)}: give FROM..TO, such as f+0x4..f+0x9")
    begin, end = place_of(image, first, option), place_of(image, second, option)
    if end <= begin:
        raise InputError(
            f"{option} {printable(word)}: nothing is between these places; give FROM..TO, where TO"
            " is behind FROM"
        )
    return begin, end


@dataclass(frozen=True, slots=True)
class _Given:
    """What the control task gives a protocol beside the places, or asks of it.

    :ivar moves: where a suspended task goes on, by pairs of addresses.
    :ivar return0: the address of ``__static_call_return0()``, or None.
    :ivar defers: the protocol has to leave CPUs in user mode out of its core syncs.
    :ivar locked: tasks hold the allocator's lock somewhere.
    """

    moves: Sequence[tuple[int, int]]
    return0: int | None
    defers: bool
    locked: bool


def _life(there: _Places, back: _Places, given: _Given) -> ControlCode:
    """Return the control task: the new code comes, and maybe the old code again."""
    returns = replace(given, moves=[(to, at) for at, to in given.moves])

    def patcher(k: Control) -> None:
        k.patch(partial(_write, k, there, given), TextIs.NEW)
        if back:
            k.patch(partial(_write, k, back, returns), TextIs.OLD)

    return patcher


def _write(k: Control, places: _Places, given: _Given) -> None:
    poke: ProtocolPoke = k.poke
    poke.patch(poke.patches_of(places, given.moves, given.return0))
    if given.moves and not poke.suspends:
        raise InputError(
            "--move: this protocol suspends no task, so none is moved; leave --move out, or give"
            " a protocol such as freeze_and_move"
        )
    if given.defers and not poke.defers:
        raise InputError(
            "--user: this protocol interrupts CPUs in user mode, too; leave --user out, or give a"
            " protocol such as text_poke_bp_deferred"
        )
    if given.locked and not poke.allocates:
        raise InputError(
            "--lock: this protocol allocates no memory, so it never waits for the allocator's lock;"
            " leave --lock out, or give a protocol such as freeze_and_move"
        )
