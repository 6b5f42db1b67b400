"""Patch protocols as values: each is a function that replaces code while CPUs may run it."""
