"""The words of ``--protocol`` that name a Python file, as every side has to read them."""

from __future__ import annotations

__all__ = ("protocol_file",)


def protocol_file(word: str) -> tuple[str | None, str]:
    """Return the Python file that ``word`` names, and the name of a patch protocol in it.

    :param word: the value of ``--protocol``: ``FILE.py``, ``FILE.py:NAME``, or a name.
    :returns: the file is None where ``word`` is the name of a protocol that comes along, and the
        name is empty where ``word`` names no protocol of the file.
    """
    if word.endswith(".py"):
        return word, ""
    file, _, name = word.rpartition(":")
    return (file, name) if file.endswith(".py") else (None, word)
