"""Text as immutable versions: pages of 4096 bytes named by their content, in groups, and versions
that are tuples of groups.

A poke makes a version, and a refresh of a vCPU's fetch view selects one. Equal contents are one
object: when a patch is undone, the emulator meets the page of before again, with its translations.
The groups keep the cost of a poke nearly independent of the size of the text: 10,000 detour buffers
are 400 pages.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator
from functools import cached_property
from hashlib import blake2b
from typing import Final
from weakref import WeakValueDictionary

from arch_x86.isa.constants import PAGE_SIZE

__all__ = ("TextGroup", "TextPage", "TextStore", "TextVersion")

_GROUP: Final = 32
"""Most pages of a group."""


class TextPage:
    """One page of code.

    :ivar vpn: its virtual page number.
    :ivar content: 4096 bytes, which never change; none where the page is not there.
    """

    __slots__ = ("__dict__", "__weakref__", "content", "vpn")

    def __init__(self, vpn: int, content: bytes) -> None:
        self.vpn = vpn
        self.content = content

    @cached_property
    def name(self) -> int:
        """A number of 16 bytes that names the page by its place and its content; 0 for a page that
        is not there.
        """
        if not self.content:
            return 0
        return int.from_bytes(
            blake2b(self.content, digest_size=16, salt=self.vpn.to_bytes(8, "little")).digest()
        )


class TextGroup:
    """Up to 32 consecutive pages of a version."""

    __slots__ = ("__dict__", "__weakref__", "pages")

    def __init__(self, pages: tuple[TextPage, ...]) -> None:
        self.pages = pages

    @cached_property
    def name(self) -> int:
        """The sum of the pages' names."""
        return sum(page.name for page in self.pages)


class TextVersion:
    """All text pages of a machine at one moment, in the order in which the store got them."""

    __slots__ = ("__weakref__", "groups")

    def __init__(self, groups: tuple[TextGroup, ...]) -> None:
        self.groups = groups

    @property
    def name(self) -> int:
        """A number of 16 bytes that names the version by its pages: the same in every process, in
        whatever order the store got them.
        """
        return sum(group.name for group in self.groups) % (1 << 128)

    @property
    def extent(self) -> int:
        """The number of pages; a later version of a store never has fewer."""
        return _GROUP * (len(self.groups) - 1) + len(self.groups[-1].pages) if self.groups else 0

    def changes_from(self, other: TextVersion | None) -> Iterator[TextPage]:
        """Yield the pages of this version that ``other`` does not have (all of them for None)."""
        before = () if other is None else other.groups
        for at, group in enumerate(self.groups):
            if at >= len(before):
                yield from group.pages
            elif before[at] is not group:
                old = before[at].pages
                for i, page in enumerate(group.pages):
                    if i >= len(old) or old[i] is not page:
                        yield page

    def lacks(self, other: TextVersion) -> Iterator[TextPage]:
        """Yield the pages of ``other`` that lie behind the end of this version."""
        for at, group in enumerate(other.groups):
            have = len(self.groups[at].pages) if at < len(self.groups) else 0
            yield from group.pages[have:]


class TextStore:
    """Makes pages, groups and versions, of equal content only one each.

    Recent writes are kept with the versions that they lead to, so that a write seen before costs a
    dictionary look-up. The pages of these versions stay alive.

    :param initial: content of each text page, by virtual page number.
    :param transitions_max: how many recent writes are kept.
    """

    def __init__(self, initial: dict[int, bytes], *, transitions_max: int = 1024) -> None:
        self._index: dict[int, int] = {}
        self._vpns: list[int] = []
        self._pages: WeakValueDictionary[tuple[int, bytes], TextPage] = WeakValueDictionary()
        self._groups: WeakValueDictionary[tuple[TextPage, ...], TextGroup] = WeakValueDictionary()
        self._versions: WeakValueDictionary[tuple[TextGroup, ...], TextVersion] = (
            WeakValueDictionary()
        )
        self._transitions: dict[tuple[TextVersion, int, bytes], TextVersion] = {}
        self._transitions_max = transitions_max
        version = self._version(())
        for vpn in sorted(initial):
            version = self.extend(version, vpn, initial[vpn])
        self.initial = version

    def _page(self, vpn: int, content: bytes) -> TextPage:
        key = (vpn, content)
        page = self._pages.get(key)
        if page is None:
            page = self._pages[key] = TextPage(vpn, content)
        return page

    def _group(self, pages: tuple[TextPage, ...]) -> TextGroup:
        group = self._groups.get(pages)
        if group is None:
            group = self._groups[pages] = TextGroup(pages)
        return group

    def _version(self, groups: tuple[TextGroup, ...]) -> TextVersion:
        version = self._versions.get(groups)
        if version is None:
            version = self._versions[groups] = TextVersion(groups)
        return version

    def extend(self, version: TextVersion, vpn: int, content: bytes) -> TextVersion:
        """Return ``version`` with one page more. Where other versions have pages in between, it has
        pages that are not there.
        """
        at = self._index.setdefault(vpn, len(self._index))
        while version.extent < at:
            version = self._append(version, self._page(self._vpns[version.extent], b""))
        if at == len(self._vpns):
            self._vpns.append(vpn)
        page = self._page(vpn, content)
        return (
            self._replace(version, at, page) if at < version.extent else self._append(version, page)
        )

    def remove(self, version: TextVersion, vpn: int) -> TextVersion:
        """Return ``version`` without the page ``vpn``."""
        return self._replace(version, self._index[vpn], self._page(vpn, b""))

    def _replace(self, version: TextVersion, at: int, page: TextPage) -> TextVersion:
        groups = list(version.groups)
        pages = list(groups[at // _GROUP].pages)
        pages[at % _GROUP] = page
        groups[at // _GROUP] = self._group(tuple(pages))
        return self._version(tuple(groups))

    def _append(self, version: TextVersion, page: TextPage) -> TextVersion:
        at = version.extent
        if at % _GROUP == 0:
            return self._version((*version.groups, self._group((page,))))
        last = self._group((*version.groups[-1].pages, page))
        return self._version((*version.groups[:-1], last))

    def covers(self, version: TextVersion, addr: int, size: int) -> bool:
        """Return whether all of the ``size`` bytes from ``addr`` are text in ``version``."""
        return size > 0 and all(
            self._content(version, vpn)
            for vpn in range(addr // PAGE_SIZE, (addr + size - 1) // PAGE_SIZE + 1)
        )

    def _content(self, version: TextVersion, vpn: int) -> bytes:
        at = self._index.get(vpn)
        return (
            b""
            if at is None or at >= version.extent
            else version.groups[at // _GROUP].pages[at % _GROUP].content
        )

    def read(self, version: TextVersion, addr: int, size: int) -> bytes:
        """Return ``size`` bytes of text in ``version``, or less where text ends."""
        out = b""
        while size > 0:
            vpn, offset = divmod(addr, PAGE_SIZE)
            content = self._content(version, vpn)
            if not content:
                break
            take = min(size, PAGE_SIZE - offset)
            out += content[offset : offset + take]
            addr += take
            size -= take
        return out

    def write(self, version: TextVersion, addr: int, data: bytes) -> TextVersion:
        """Return the version that differs from ``version`` in ``data`` at ``addr``. The caller has
        looked that this is text (:meth:`covers`).
        """
        key = (version, addr, data)
        known = self._transitions.get(key)
        if known is not None:
            return known
        made = self.write_many(version, ((addr, data),))
        if len(self._transitions) >= self._transitions_max:
            del self._transitions[next(iter(self._transitions))]
        self._transitions[key] = made
        return made

    def write_many(self, version: TextVersion, writes: Iterable[tuple[int, bytes]]) -> TextVersion:
        """Return the version that differs from ``version`` in all of ``writes`` (address, bytes).
        Each page is made once.
        """
        contents: dict[int, bytearray] = {}
        for addr, data in writes:
            done = 0
            while done < len(data):
                vpn, offset = divmod(addr + done, PAGE_SIZE)
                take = min(len(data) - done, PAGE_SIZE - offset)
                at = self._index[vpn]
                content = contents.get(at)
                if content is None:
                    content = contents[at] = bytearray(
                        version.groups[at // _GROUP].pages[at % _GROUP].content
                    )
                content[offset : offset + take] = data[done : done + take]
                done += take
        groups = list(version.groups)
        touched: dict[int, list[TextPage]] = {}
        for at, content in contents.items():
            pages = touched.setdefault(at // _GROUP, list(groups[at // _GROUP].pages))
            pages[at % _GROUP] = self._page(pages[at % _GROUP].vpn, bytes(content))
        for at, pages in touched.items():
            groups[at] = self._group(tuple(pages))
        return self._version(tuple(groups))
