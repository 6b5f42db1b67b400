"""The parts of optprobe that name no instruction set and no emulator.

They are the kprobes core, the control plane, the exploration of schedules, the reports and the
command line. Only :mod:`engine.commands` imports :mod:`arch_x86`.
"""
