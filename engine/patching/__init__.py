"""Exploration of code patching, whatever the processor: what it needs of one is in
:mod:`engine.patching.port`.
"""
