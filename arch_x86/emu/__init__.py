"""The emulated SMP machine: vCPUs on Unicorn, RAM, page tables, traps and interrupts, images,
snapshots. Unicorn is imported here only.
"""
