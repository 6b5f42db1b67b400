"""The kprobes core. Answers to kernel/kprobes.c.

It holds the table of probes, and does registration, arming, optimizing and the return probes, as
the kernel of a profile would.
"""
