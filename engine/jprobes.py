"""The name that :mod:`engine.jprobe` had. Scripts of users import it."""

from engine.jprobe import Jprobe

__all__ = ("Jprobe",)
