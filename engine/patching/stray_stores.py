"""Stores of a patch protocol outside of its sites, for timelines and texts of violations."""

from __future__ import annotations

from collections.abc import Collection, Iterator
from dataclasses import replace

from engine.patching.control_tree import ControlNode
from engine.patching.patched_sites import PatchedSite
from engine.patching.port import TextPort
from engine.patching.situation import Situation
from engine.search.explorable import Violation, ViolationKind

__all__ = ("changes_outside", "with_stray_store")


def changes_outside(
    text: TextPort, before: ControlNode, after: ControlNode, sites: Collection[PatchedSite]
) -> Iterator[tuple[int, bytes, bytes]]:
    """Yield what the writes of a step have changed outside of ``sites``.

    :param before: the control state in front of the step of a control task.
    :param after: the control state behind it.
    :returns: the address, the bytes before and the bytes after of each run of changed bytes.
    """
    spans = {
        (write.addr, len(write.data))
        for edge in before.children.values()
        if edge.node is after
        for write in edge.writes
    }
    written = {at for addr, size in spans for at in range(addr, addr + size)}
    written -= {at for site in sites for at in range(site.addr, site.end)}
    run: list[tuple[int, bytes, bytes]] = []
    for at in sorted(written):
        old, new = text.read(before.version, at, 1), text.read(after.version, at, 1)
        if old == new:
            continue
        if run and run[-1][0] + 1 != at:
            yield _joined(run)
            run = []
        run.append((at, old, new))
    if run:
        yield _joined(run)


def _joined(run: list[tuple[int, bytes, bytes]]) -> tuple[int, bytes, bytes]:
    """Return one change for changes of bytes that lie side by side."""
    return run[0][0], b"".join(old for _, old, _ in run), b"".join(new for _, _, new in run)


def with_stray_store(now: Situation, violation: Violation) -> Violation:
    """Return ``violation`` with the first byte that the protocol has changed outside of its sites.

    Where there is none, or where the violation is about that byte, it is returned as it is.
    """
    if violation.kind is ViolationKind.NOT_RESTORED:
        return violation
    text, version = now.port.text, now.node.version
    codes = {site.addr: text.read(version, site.addr, len(site.old)) for site in now.patches}
    change = text.first_change(version, codes)
    if change is None:
        return violation
    addr, new, old = change
    told = f"the protocol has stored {new:02x} over {old:02x} at {text.where(addr)}"
    return replace(violation, explain=f"{violation.explain}; {told}, which is in no site")
