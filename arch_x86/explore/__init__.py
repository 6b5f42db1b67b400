"""Every interleaving of vCPUs, interrupts and control tasks up to a bound, on real code, with
oracles for what must hold.
"""
