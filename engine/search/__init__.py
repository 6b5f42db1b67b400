"""Exploring schedules: choices, strategies, results, shrinking. Arch-neutral; who can be scheduled,
and what breaks, others say.
"""
