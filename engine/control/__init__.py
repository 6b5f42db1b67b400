"""Where control code runs: mutexes, delayed work, grace periods, stop_machine, and a plane whose
every step is chosen from outside.
"""
