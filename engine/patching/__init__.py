"""Exploration of code patching on any processor.

What it needs of a processor is in :mod:`engine.patching.port`.
"""
