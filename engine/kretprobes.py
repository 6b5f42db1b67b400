"""The former name of :mod:`engine.kretprobe`, kept since scripts of users import it."""

from engine.kretprobe import Kretprobe, KretprobeInstance

__all__ = ("Kretprobe", "KretprobeInstance")
