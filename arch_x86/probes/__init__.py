"""This room places, arms and handles probes in x86-64 code, as arch/x86/kernel/kprobes/ does.

Its planning is pure: where a probe may go, what is copied, which bytes a slot or detour buffer has.
The effects on guest text and on a vCPU's registers are apart from it.
"""
