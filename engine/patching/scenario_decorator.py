"""The decorator that makes a scenario of a function.

A file of scenarios uses the decorator like this:

@scenario(image=TEXT, call="work", arguments=("5",), calls=2, cpus=1)
def register(setup: Setup) -> None:
    \"\"\"A probe goes in and out.\"\"\"
    @setup.control
    def main(k: Control) -> None:
        p = k.kprobe("work", 4)
        k.register(p)
        k.settle()
        k.unregister(p)
        k.settle()
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final

from engine import defaults
from engine.core.profiles import PROFILES as SHIPPED
from engine.errors import InputError, printable
from engine.limits import PREEMPTIONS_MAX
from engine.patching.option_kinds import List, Number
from engine.patching.request import Request
from engine.patching.request_options import read_keywords
from engine.patching.scenario_record import Scenario, Setup
from engine.patching.user_code import source_of

__all__ = ("PROFILES", "scenario")

_NUMBER_NAME: Final = re.compile(r"^x(?=\d)")
"""This pattern finds the x in front of a function's name that begins with a commit's number.

A name can't begin with a digit in Python, so the function of such a scenario has this x.
"""
PROFILES: Final = tuple(one.name for one in SHIPPED)
"""A scenario that names no profiles makes sense in all of these."""


def scenario(
    *,
    image: str,
    call: str,
    arguments: Sequence[str] = (),
    calls: int = defaults.SCENARIO_CALLS,
    cpus: int = defaults.CPUS,
    preempt: bool = False,
    fetch: str = defaults.FETCH,
    nmis: bool = False,
    interrupts: bool = True,
    asleep: Sequence[int] = (),
    branches: Sequence[str] = (),
    static_calls: Sequence[str] = (),
    text_reserved: bool = True,
    preemptions: int = defaults.PREEMPTIONS,
    profiles: Sequence[str] = PROFILES,
    without: Sequence[str] = (),
    steps: Sequence[str] = (),
    batch: int | None = None,
    poke: Callable[..., Any] | None = None,
) -> Callable[[Callable[[Setup], None]], Scenario]:
    """Return a decorator that makes a :class:`Scenario` of a function that places control tasks.

    :param image: the text of assembly, or the path of a file.
    :param call: the function that each vCPU calls.
    :param arguments: the arguments of the call, as on the command line.
    :param calls: how often each vCPU makes the call.
    :param cpus: how many vCPUs there are.
    :param preempt: each vCPU has a second task, to which an interrupt may give it.
    :param fetch: the fetch model, such as ``torn``.
    :param nmis: NMIs may come.
    :param interrupts: external interrupts may come.
    :param asleep: offsets in the called function, in bytes, in front of whose instruction a
        task falls asleep in the middle of its call, for ever.
    :param branches: static branches, ``SYM+OFF:TARGET``: a no-op in the code, which a static key
        turns into a jump to ``TARGET``.
    :param static_calls: static calls, ``SYM+OFF:FUNCTION``: a call in the code, or a jump at the
        end of a function, which ``static_call_update()`` lets go to ``FUNCTION``, or to none,
        ``NULL``. All go to one function at first.
    :param text_reserved: no probe can go to a static branch or a static call, as in Linux
        (``static_call_text_reserved()``).
    :param preemptions: the bound that the scenario is meant for.
    :param profiles: the names of the profiles in which it makes sense.
    :param without: safety steps that it leaves out, so that it shows what they are for.
    :param steps: safety steps without which it fails.
    :param batch: the most probes that a pass takes in each direction in ``linux-2010``, or the
        most pokes that share their core syncs in ``next``. With a small number two or three
        probes are more than a batch. None stands for the kernel's 256.
    :param poke: makes the poke protocol, ``poke(text, plane, without)``; None stands for the
        profile's.
    :raises InputError: one of these is of another type, or out of range.
    """
    given = read_keywords(locals())
    wanted = _profiles(profiles)
    request = Request(
        **given,
        profile=wanted[0],
        max_instructions=defaults.EXPERIMENT_MAX_INSTRUCTIONS,
        red_zone=None,
    )
    bound = Number(0, PREEMPTIONS_MAX).keyword("preemptions", preemptions)
    shows = List(str).keyword("steps", steps)

    def make(build: Callable[[Setup], None]) -> Scenario:
        name = _NUMBER_NAME.sub("", build.__name__).replace("_", "-")
        doc = (build.__doc__ or "").strip()
        return Scenario(name, doc, build, request, bound, wanted, shows, source_of(build))

    return make


def _profiles(given: object) -> tuple[str, ...]:
    """Return the names of the profiles in which the scenario makes sense.

    :raises InputError: there is no name, or one is not that of a profile.
    """
    names = List(str).keyword("profiles", given)
    if not names or not set(names) <= set(PROFILES):
        raise InputError(f"profiles={printable(repr(given))}: give some of {', '.join(PROFILES)}")
    return names
