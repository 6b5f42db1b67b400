"""The name that :mod:`engine.core.profiles` had. Scripts of users import it."""

from engine.core.profiles import LINUX_6_1, LINUX_2010, NEXT, PROFILES, Profile, profile_named

__all__ = ("LINUX_6_1", "LINUX_2010", "NEXT", "PROFILES", "Profile", "profile_named")
