"""Faults that are planted one at a time, to see who finds each: exploration, ``verify``, or the
unit tests (``make mutants``).
"""
