"""The former name of :mod:`engine.core.profiles`, kept since scripts of users import it."""

from engine.core.profiles import LINUX_6_1, LINUX_2010, NEXT, PROFILES, Profile, profile_named

__all__ = ("LINUX_6_1", "LINUX_2010", "NEXT", "PROFILES", "Profile", "profile_named")
