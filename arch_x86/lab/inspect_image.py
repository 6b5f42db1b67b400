"""This module is ``optprobe inspect``: what may be probed and how (kernel/kprobes.c).

It writes a listing for a person, or JSON.
"""

from __future__ import annotations

import os
import stat
from collections.abc import Callable, Iterable
from typing import Final, TextIO

from arch_x86.lab.inspect_jobs import write_json_in_processes, write_lines_in_processes
from arch_x86.lab.inspect_page import InspectPage
from arch_x86.probes.code import CodeCache
from arch_x86.probes.inspect import inspect_functions, named_functions, write_inspect_json
from engine import defaults
from engine.image import Image
from engine.report.columns import ascii_text
from engine.report.terminal import Progress, Style, count

__all__ = ("inspect_image",)

_NAME_MAX: Final = 40


def inspect_image(
    out: TextIO,
    image: Image,
    symbol: str | None = None,
    *,
    as_json: bool = False,
    buffers: bool = False,
    jobs: int = defaults.JOBS,
) -> None:
    """Write the report on the functions called ``symbol``, or on all functions, to ``out``.

    :param as_json: write JSON, else a listing.
    :param buffers: report also the bytes of each site's slot and detour buffer.
    :param jobs: the number of processes; what is written does not depend on it.
    :raises InputError: there is no such function; nothing is written then.
    :raises WorkerDied: a process died, or has too little memory.
    """
    live = (
        Progress(f"inspect {ascii_text(image.name)[:_NAME_MAX]}") if _goes_to_a_file(out) else None
    )

    def update(done: int, total: int) -> None:
        if live is not None:
            live.update(done, total, "functions")

    try:
        if as_json and jobs == 1:
            write_inspect_json(out, image, symbol, buffers, update)
        elif as_json:
            write_json_in_processes(out, image, symbol, buffers, jobs, update)
        else:
            _write_page(out, image, symbol, buffers, jobs, update)
    finally:
        if live is not None:
            live.clear()


def _goes_to_a_file(out: TextIO) -> bool:
    """Return True when ``out`` is a regular file, so that progress has to be shown.

    Anywhere else the user sees the report itself grow.
    """
    try:
        return stat.S_ISREG(os.fstat(out.fileno()).st_mode)
    except OSError:  # It is no file at all. io.UnsupportedOperation is an OSError, too.
        return False


def _write_page(
    out: TextIO,
    image: Image,
    symbol: str | None,
    buffers: bool,
    jobs: int,
    update: Callable[[int, int], None],
) -> None:
    functions = named_functions(image, symbol)
    cache, style = CodeCache(image), Style.for_stream(out)
    page = InspectPage(image, cache, style, buffers=buffers)
    _write(out, page.legend())
    if symbol is None:
        _write(
            out, ("", f"{ascii_text(image.name)[:_NAME_MAX]}: {count(len(functions), 'function')}")
        )
    done = 0
    for report in inspect_functions(cache, functions, buffers=buffers):
        if jobs > 1 and page.is_settled and not page.goes_on(report):
            break
        update(done, len(functions))
        _write(out, page.function(report))
        done += 1
    if done < len(functions):
        write_lines_in_processes(
            out,
            image,
            functions[done:],
            lambda cache: InspectPage(image, cache, style, buffers=buffers, begun=True),
            buffers=buffers,
            jobs=jobs,
            progress=lambda now, _total: update(done + now, len(functions)),
        )


def _write(out: TextIO, lines: Iterable[str]) -> None:
    out.writelines(f"{line}\n" for line in lines)
