"""The exploration of schedules: choices, strategies, results and shrinking.

This package knows no architecture. The system that is explored says which actors there are, what
they do, and what a violation is.
"""
