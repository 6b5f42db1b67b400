"""Copies of instructions do what the instructions do: both are executed, from the same random
states.
"""
