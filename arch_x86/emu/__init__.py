"""The emulated SMP machine: vCPUs on Unicorn, memory, page tables, traps, snapshots.

No other package imports Unicorn.
"""
