"""The oracles: rules that must hold on every schedule, one a file.

Each is a class of :class:`engine.patching.oracles.oracle.Oracle`.
"""
