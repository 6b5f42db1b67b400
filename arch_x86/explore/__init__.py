"""The exploration of every interleaving up to a bound, on real x86-64 code.

vCPUs, interrupts and control tasks interleave, and oracles say what must hold on each schedule.
"""
