"""What must hold on every schedule: one rule a file, all behind
:class:`engine.patching.oracles.oracle.Oracle`.
"""
