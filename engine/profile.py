"""Which kernel's behaviour a machine shows. One object a profile; what differs hangs on it, not on comparisons of names.

``linux-2010``: kernel/kprobes.c as of 6274de4984a6 with the 2.6.38 arch code. ``linux-6.1``: what a 6.1.192 was measured to do; as far
as it is there: the hit path (what is boosted, emulated, stepped), not yet the core's batches and locks.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

from engine.errors import InputError, printable

__all__ = ("LINUX_6_1", "LINUX_2010", "PROFILES", "Profile", "profile_named")


@dataclass(frozen=True, kw_only=True, slots=True)
class Profile:
    """Switches of the hit path.

    ``steps_by_int3``: the copy is followed by a second int3 and branches are emulated (since v5.14); else TF steps it and fix-ups follow.
    ``emulation_warts``: LOOP is emulated with its count one too high, and RET imm16 without releasing its arguments.
    ``unmapped_is_enoent``: a probe outside all text answers ENOENT instead of EINVAL.
    """

    name: str
    steps_by_int3: bool
    emulation_warts: bool
    unmapped_is_enoent: bool


LINUX_2010: Final = Profile(name="linux-2010", steps_by_int3=False, emulation_warts=False, unmapped_is_enoent=False)
LINUX_6_1: Final = Profile(name="linux-6.1", steps_by_int3=True, emulation_warts=True, unmapped_is_enoent=True)
PROFILES: Final = (LINUX_2010, LINUX_6_1)


def profile_named(name: str) -> Profile:
    """The profile called ``name``.

    :raises InputError: there is none.
    """
    for profile in PROFILES:
        if profile.name == name:
            return profile
    raise InputError(f"--profile {printable(name)}: not there; give one of {', '.join(p.name for p in PROFILES)}")
