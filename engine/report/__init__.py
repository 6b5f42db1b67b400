"""Text for people: colours, columns and progress.

JSON documents come from the results themselves.
"""
