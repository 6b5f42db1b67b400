"""The former name of :mod:`engine.jprobe`, kept since scripts of users import it."""

from engine.jprobe import Jprobe

__all__ = ("Jprobe",)
