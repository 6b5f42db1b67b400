"""The name that :mod:`engine.kretprobe` had. Scripts of users import it."""

from engine.kretprobe import Kretprobe, KretprobeInstance

__all__ = ("Kretprobe", "KretprobeInstance")
