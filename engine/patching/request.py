"""The record of what a command, a saved file, a scenario or Python asks an experiment to be."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, replace
from typing import Any

from engine import defaults
from engine.core.profiles import Profile
from engine.image import Image
from engine.patching.conditions import Conditions

__all__ = ("Request",)


@dataclass(frozen=True, kw_only=True, slots=True)
class Request(Conditions):
    """A request says what an experiment is asked to be.

    Its values have been checked, or are texts that only the program to be explored can show to
    be right. :mod:`engine.patching.request_options` reads a request, and
    :mod:`engine.patching.make_experiment` makes the experiment.

    :ivar image: the path of a file, or an image that is loaded; of a scenario it may also be
        the text of assembly.
    :ivar call: the function that each vCPU calls.
    :ivar arguments: the arguments of the call, as of ``--arg``.
    :ivar probes: the definitions of the probes whose life ``check`` explores, as of
        ``--probe``; a scenario has its own control tasks instead.
    :ivar profile: the name of a shipped profile, or a profile.
    :ivar without: the names of the safety steps that are left out.
    :ivar resched: places ``SYM+OFF`` in front of whose instruction a task calls ``schedule()``.
    :ivar asleep: offsets in the called function, in bytes, in front of whose instruction a task
        falls asleep for ever.
    :ivar branches: the static branches ``SYM+OFF:TARGET`` of a scenario's program: a no-op that
        becomes a jump to the place ``TARGET``.
    :ivar static_calls: the static calls ``SYM+OFF:FUNCTION`` of a scenario's program: calls that go
        to ``FUNCTION`` for a while.
    :ivar text_reserved: no probe goes to the static branches and static calls.
    :ivar batch: the most probes of a batch; None stands for as many as in the kernel.
    :ivar libraries: the paths of the shared libraries to resolve from.
    :ivar red_zone: ``yes``, ``no``, or ``auto`` to find out; None stands for what the image
        says.
    :ivar protocol: the patch protocol by which text is written: its name, a Python file that has
        it, or the protocol itself as the CPU side has it; None stands for the profile's own.
    """

    image: str | Image
    call: str
    arguments: tuple[str, ...] = ()
    probes: tuple[str, ...] = ()
    profile: str | Profile = defaults.PROFILE
    without: tuple[str, ...] = ()
    resched: tuple[str, ...] = ()
    asleep: tuple[int, ...] = ()
    branches: tuple[str, ...] = ()
    static_calls: tuple[str, ...] = ()
    text_reserved: bool = True
    batch: int | None = None
    libraries: tuple[str, ...] = ()
    red_zone: str | None = defaults.RED_ZONE
    protocol: Any = None

    def changed(self, asked: Mapping[str, Any]) -> Request:
        """Return this request of a scenario, changed by what its user asks.

        More steps are left out, preemption is added where there was none, and other values
        take the place of the present ones. Where ``asked`` has None the present values
        stay.
        """
        changes = {name: value for name, value in asked.items() if value is not None}
        if "without" in changes:
            changes["without"] = (*changes["without"], *self.without)
        if "preempt" in changes:
            changes["preempt"] = changes["preempt"] or self.preempt
        return replace(self, **changes)
