"""The array of text pokes that the kernel's handler of breakpoints reads, store by store.

It answers to ``bp_patching`` (v5.4), ``bp_desc`` (v5.6 to v6.0) and ``text_poke_array`` (v6.16) in
arch/x86/kernel/alternative.c. The handler reads it in two pieces, and a control task may store in
between: first whether there is an array, and then the entry of its own address.
"""

from __future__ import annotations

from bisect import bisect_left

from arch_x86.text.poke import HandlerCrashError, TextPokeParam

__all__ = ("PokeArray",)


class PokeArray:
    """The array.

    :ivar published: the first piece of a hit finds the array: its count is not 0 (v5.4), the
        pointer to it is not NULL (v5.6), or the CPU gets a reference to it (v6.16).
    :ivar entries: the pokes, in the order in which they came; None: the pointer to them is NULL.
    :ivar on_stack: the array lies on the stack of a function that has returned, whose bytes are
        something else by now.
    """

    def __init__(self) -> None:
        self.published = False
        self.entries: list[TextPokeParam] | None = []
        self.on_stack = False

    def add(self, param: TextPokeParam) -> None:
        """Put a poke behind those that are there."""
        self.entries = [*(self.entries or ()), param]

    @property
    def last(self) -> int | None:
        """The address of the poke that came last, or None."""
        return self.entries[-1].addr if self.entries else None

    def find(self, addr: int) -> TextPokeParam | None:
        """Return the poke at ``addr``, as the handler finds it: by bisection.

        :returns: None where it finds none, or one that leaves the breakpoint to another handler.
        :raises HandlerCrashError: there is no array, or no entries.
        """
        if self.on_stack:
            raise HandlerCrashError(
                "the handler of breakpoints read a descriptor on the stack of text_poke_bp_batch(),"
                " which had returned"
            )
        if self.entries is None:
            raise HandlerCrashError(
                "the handler of breakpoints read bp_patching.vec, which was NULL, behind a count"
                " that was not 0"
            )
        at = bisect_left(self.entries, addr, key=lambda one: one.addr)
        found = self.entries[at] if at < len(self.entries) else None
        return found if found is not None and found.addr == addr and found.goes_on else None

    @property
    def state(self) -> tuple[object, ...]:
        """All that an answer of the handler depends on."""
        return (self.published, self.entries, self.on_stack)
