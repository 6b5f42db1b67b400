"""The name that :mod:`engine.core.global_switches` had. Scripts of users import it."""

from engine.core.global_switches import set_kprobes_enabled, set_kprobes_optimization

__all__ = ("set_kprobes_enabled", "set_kprobes_optimization")
