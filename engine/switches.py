"""The former name of :mod:`engine.core.global_switches`, kept since scripts of users import it."""

from engine.core.global_switches import set_kprobes_enabled, set_kprobes_optimization

__all__ = ("set_kprobes_enabled", "set_kprobes_optimization")
