"""What ``verify`` finds by one run for all interrupts, and by one run for each, in the tree that it
is run in: ``python -m tests.faults.both_ways``.

The calls are those of :mod:`tests.faults.verify`, with an interrupt at every boundary. Prints the
first call of which the two ways say different things, and ends with status 1; with 0 when there is
none.
"""

from __future__ import annotations

from contextlib import closing
from typing import Final

from arch_x86.emu.machine import new_pool
from arch_x86.emu.uc import UcPool
from arch_x86.lab.run import ExecOptions
from arch_x86.lab.verify import Sweep, Verifier
from engine.core.profiles import Profile
from engine.image import Image
from engine.syntax.arguments import parse_argument
from tests.faults.verify import RUNS, image_of

__all__ = ("first_difference", "main")

_ALL: Final = Sweep("boundaries")


def _found(image: Image, profile: Profile, pool: UcPool, *, one_by_one: bool) -> list[str]:
    """Each failure, and how many runs each site took; an error, if it raises one."""
    said: list[str] = []
    try:
        with closing(
            Verifier(
                image,
                "f",
                [parse_argument("3")],
                options=ExecOptions(profile=profile),
                pool=pool,
                one_by_one=one_by_one,
            )
        ) as verifier:
            for addr in verifier.sites():
                said += (str(one.to_json()) for one in verifier.check_site(addr, _ALL))
                said.append(f"{verifier.runs} runs up to {addr:#x}")
    except Exception as error:  # whatever a faulty tree raises, both ways raise it
        said.append(f"{type(error).__name__}: {error}")
    return said


def first_difference() -> str | None:
    """The first call of which the two ways say different things, and what."""
    pool = new_pool()
    for name, text, profiles, _sweep in RUNS:
        image = image_of(name, text)
        for profile in profiles:
            fast, slow = (
                _found(image, profile, pool, one_by_one=one_by_one) for one_by_one in (False, True)
            )
            if fast != slow:
                lines = [both for both in zip(fast, slow, strict=False) if both[0] != both[1]]
                return f"{name} in {profile.name}: {lines[:1]}"
    return None


def main() -> int:
    """Returns the exit status."""
    found = first_difference()
    if found is not None:
        print(found)
    return int(found is not None)


if __name__ == "__main__":
    raise SystemExit(main())
