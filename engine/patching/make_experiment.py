"""The making of experiments, from what is asked of ``check`` or from what a scenario says."""

from __future__ import annotations

import errno
from collections.abc import Sequence
from dataclasses import replace
from typing import Final

from engine.brief import count
from engine.core.ablation import without
from engine.core.profiles import LINUX_6_1, Profile, profile_named
from engine.core.safety_steps import SafetyStep
from engine.errors import InputError, KprobeError, printable
from engine.image import Image, Reserved, ReservedKind
from engine.patching.conditions import conditions_of
from engine.patching.control_code import ControlCode, ControlCodes
from engine.patching.experiment import Experiment
from engine.patching.patch_spec import PatchSpec
from engine.patching.patched_sites import PatchedSite
from engine.patching.probe_life import life_of_probes
from engine.patching.request import Request
from engine.patching.setup_port import SetupPort
from engine.syntax.arguments import Argument, parse_argument
from engine.syntax.kprobe_events import (
    MAXACTIVE_MAX,
    ProbeSpec,
    parse_spec,
    refuse_ambiguous,
    several_functions,
)

__all__ = (
    "by_protocol",
    "experiment_of_check",
    "experiment_of_patch",
    "experiment_of_request",
    "profile_of",
)

_SWITCHES: Final = 4
"""A call may see a static branch switched so often: on and off, by each of two control tasks."""


def experiment_of_check(request: Request, port: SetupPort) -> Experiment:
    """Make the experiment of ``check``, whose control task is the whole life of the probes.

    :raises InputError: something in ``request`` is wrong.
    :raises KprobeError: a probe is one that the kernel refuses.
    """
    specs = _specs(request.probes)
    request = by_protocol(request, port)
    image = (
        request.image
        if isinstance(request.image, Image)
        else port.load_image(request.image, request.libraries, request.stubs)
    )
    profile = profile_of(request)
    for spec in specs:
        refuse_ambiguous(spec, image, profile)
    arguments = tuple(parse_argument(text) for text in request.arguments)
    zoned, taken = port.with_red_zone(image, request, arguments)
    if taken is not None:
        zoned = replace(zoned, warnings=(*zoned.warnings, taken))
    # The red zone is in the tag only where the request changes it, so that schedules that were
    # recorded before there was such an option keep their fingerprints.
    changed = "" if zoned.red_zone is image.red_zone else f" red zone: {zoned.red_zone}"
    return experiment_of_request(
        request,
        port,
        image=zoned,
        arguments=arguments,
        code=[("main", life_of_probes(specs))],
        tag=repr([spec.text for spec in specs]) + changed,
    )


def experiment_of_patch(request: Request, spec: PatchSpec, port: SetupPort) -> Experiment:
    """Make the experiment of ``patch``, whose control task replaces code by a patch protocol.

    No probe is there, so the kernel has no use for a breakpoint that is not the protocol's.

    :raises InputError: something in ``request`` or ``spec`` is wrong.
    """
    image = (
        request.image
        if isinstance(request.image, Image)
        else port.load_image(request.image, request.libraries, request.stubs)
    )
    arguments = tuple(parse_argument(text) for text in request.arguments)
    zoned, taken = port.with_red_zone(image, request, arguments)
    if taken is not None:
        zoned = replace(zoned, warnings=(*zoned.warnings, taken))
    plan = port.plan_patch(zoned, spec)
    return experiment_of_request(
        replace(
            request,
            profile=LINUX_6_1.name,
            without=(SafetyStep.INT3_GONE,),
            poke=plan.poke,
        ),
        port,
        image=zoned,
        arguments=arguments,
        code=[("patcher", plan.code)],
        tag=plan.tag,
        patches=plan.sites,
        patch_changes=1 + spec.back,
        lock=plan.lock,
        user=plan.user,
    )


def experiment_of_request(
    request: Request,
    port: SetupPort,
    *,
    image: Image,
    arguments: tuple[Argument, ...],
    code: Sequence[tuple[str, ControlCode]] | ControlCodes,
    tag: str,
    patches: tuple[PatchedSite, ...] = (),
    patch_changes: int = 0,
    lock: range | None = None,
    user: range | None = None,
) -> Experiment:
    """Make the experiment that ``request`` describes, with control tasks ``code`` in ``image``.

    :param tag: a text that differs where control tasks do something else, for the fingerprint.
    :raises InputError: a safety step or a place in ``request`` is wrong.
    """
    switched = _switched(request, image, port)
    if switched:
        patches, patch_changes = switched, _SWITCHES
        if request.text_reserved:
            image = replace(image, reserved=(*image.reserved, *map(_reserved, switched)))
    return Experiment(
        **conditions_of(request),
        image=image,
        call=request.call,
        arguments=arguments,
        profile=profile_of(request),
        resched=tuple(_place(image, request.call, text, port) for text in request.resched),
        asleep=_asleep(image, request, port),
        patches=patches,
        switched=switched,
        patch_changes=patch_changes,
        lock=lock,
        user=user,
        code=code,
        tag=tag,
    )


def _switched(request: Request, image: Image, port: SetupPort) -> tuple[PatchedSite, ...]:
    """Return the static branches of ``request``, or its static calls.

    :raises InputError: it has both, or one of them is wrong.
    """
    if request.branches and request.static_calls:
        raise InputError("branches= and static_calls=: a scenario has one of the two")
    if request.branches:
        return port.static_branches(image, request.branches)
    return port.static_calls(image, request.static_calls) if request.static_calls else ()


def _reserved(site: PatchedSite) -> Reserved:
    """Return the record that keeps probes off a static branch or a static call."""
    call = site.functions is not None
    kind = ReservedKind.STATIC_CALL if call else ReservedKind.JUMP_LABEL
    return Reserved(site.addr, len(site.old), kind)


def by_protocol(request: Request, port: SetupPort) -> Request:
    """Return ``request`` with the poke protocol that its patch protocol makes, if it has one.

    Names of steps that are the patch protocol's are taken out of ``without``.

    :raises InputError: there is no such protocol, or the request has a poke protocol, too.
    """
    if request.protocol is None:
        return request
    if request.poke is not None:
        raise InputError("--protocol: the text is written by a poke= already; give one of the two")
    poke, others = port.poke_by(request.protocol, request.without)
    return replace(request, poke=poke, without=others)


def profile_of(request: Request) -> Profile:
    """Return the profile of ``request``, without the steps left out, and with its batch size.

    :raises InputError: there is no such profile or step.
    """
    profile = (
        request.profile if isinstance(request.profile, Profile) else profile_named(request.profile)
    )
    ablated = without(profile, frozenset(request.without), preempt=request.preempt)
    return ablated if request.batch is None else replace(ablated, batch=request.batch)


def _specs(probes: Sequence[str]) -> list[ProbeSpec]:
    """Return the definitions of the probes.

    :raises InputError: there is none, or one of them is wrong.
    :raises KprobeError: a return probe is to follow more calls than it can.
    """
    specs = [parse_spec(text) for text in probes]
    if not specs:
        raise InputError("check needs at least one --probe; write --probe SYM+0xOFF")
    for spec in specs:
        shown = printable(spec.text)
        if spec.fetchargs:
            raise InputError(f"probe '{shown}': fetch arguments are not there yet; leave them out")
        if (spec.maxactive or 0) > MAXACTIVE_MAX:
            raise KprobeError(
                errno.E2BIG,
                f"probe '{shown}': {spec.maxactive} calls at once; a return probe follows"
                f" {MAXACTIVE_MAX} at most",
            )
    return specs


def _asleep(image: Image, request: Request, port: SetupPort) -> tuple[int, ...]:
    """Return the addresses in front of whose instruction a task falls asleep for ever."""
    if not request.asleep:
        return ()
    called = port.function(image, request.call)
    return tuple(
        port.boundary(image, called.addr + offset, f"asleep={offset}") for offset in request.asleep
    )


def _place(image: Image, call: str, text: str, port: SetupPort) -> int:
    """Return the address that ``--resched`` gives as SYM+OFF."""
    spec = parse_spec(text)
    what = f"--resched {printable(text)}"
    if spec.is_return or spec.event is not None or spec.fetchargs:
        raise InputError(
            f"{what}: a probe's definition; give SYM+OFF, where a task is to call schedule()"
        )
    if spec.address is not None:
        return port.boundary(image, spec.address, what)
    several = several_functions(image, spec.symbol or "", spec.offset)
    if several:
        raise InputError(f"{what}: {several}")
    symbol = next((one for one in image.functions if one.name == spec.symbol), None)
    if symbol is None:
        named = image.by_name.get(spec.symbol or "")
        data = "" if named is None or named.function else ", where that names data"
        raise InputError(
            f"{what}: {image.name} has no function {printable(spec.symbol or '')}{data}; give one"
            f" of its own, such as {printable(call)}"
        )
    if symbol.size and spec.offset >= symbol.size:
        raise InputError(
            f"{what}: outside of {printable(symbol.name)}, which has {count(symbol.size, 'byte')};"
            " give where an instruction starts"
        )
    return port.boundary(image, symbol.addr + spec.offset, what)
