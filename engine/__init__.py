"""Arch-neutral kprobes core, control plane, exploration and reports. Never names an instruction set
or an emulator.
"""
