"""The laboratory: a machine, an image, and a kprobes core wired together, and the commands that use
them.
"""
