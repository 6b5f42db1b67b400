"""This module runs ``inspect`` over several processes; no kernel file answers to it.

The code is cut into tasks, and the texts of the tasks are written in their order, so that the
output is that of one process, byte for byte. A task is small, so that the texts that wait for their
turn are few.
"""

from __future__ import annotations

from collections.abc import Callable, Iterable, Iterator, Sequence
from itertools import groupby
from typing import Final, NamedTuple, TextIO

from arch_x86.lab.inspect_page import InspectPage
from arch_x86.probes.code import CodeCache
from arch_x86.probes.inspect import (
    FunctionReport,
    inspect_functions,
    json_end,
    json_start,
    named_functions,
)
from engine.image import Image, Symbol

__all__ = ("write_json_in_processes", "write_lines_in_processes")

_TASK_SIZE: Final = 1 << 13
"""A task has at least this many bytes of code, but for the last one. They make 2 MB of JSON."""

Progress = Callable[[int, int], None]


class _Part(NamedTuple):
    """This record is a part of a function.

    :ivar number: the number of the function.
    :ivar first: the offset at which the part begins.
    :ivar last: the offset behind its end.
    """

    number: int
    first: int
    last: int


_Task = tuple[_Part, ...]


def _sizes(image: Image, functions: Iterable[Symbol]) -> Iterator[int]:
    """Yield the size in bytes of each function, and keep none of their code."""
    for report in inspect_functions(CodeCache(image), functions):
        yield report.size


def _cut(sizes: Iterable[int]) -> Iterator[_Part]:
    """Yield the functions of these sizes in parts that are no larger than a task."""
    for number, size in enumerate(sizes):
        for first in range(0, max(size, 1), _TASK_SIZE):
            yield _Part(number, first, min(first + _TASK_SIZE, size))


def _tasks(groups: Iterable[Iterable[_Part]]) -> Iterator[_Task]:
    """Yield the tasks. The parts of a group stay together."""
    task: list[_Part] = []
    size = 0
    for group in groups:
        for part in group:
            task.append(part)
            size += part.last - part.first
        if size >= _TASK_SIZE:
            yield tuple(task)
            task, size = [], 0
    if task:
        yield tuple(task)


class _JsonTexts:
    """This class makes the texts of tasks, in a process of its own.

    It keeps the last function decoded, of which the next task may have a part, too.
    """

    def __init__(self, image: Image, functions: Sequence[Symbol], *, buffers: bool) -> None:
        self._functions = functions
        self._cache = CodeCache(image)
        self._buffers = buffers
        self._last: FunctionReport | None = None

    def text(self, task: _Task) -> str:
        """Return the text of ``task``, with what separates it from the one before."""
        texts: list[str] = []
        for number, first, last in task:
            texts.append(", " * (number > 0 and first == 0))
            texts.extend(self._report(number).json_parts(first, last))
        return "".join(texts)

    def _report(self, number: int) -> FunctionReport:
        symbol, known = self._functions[number], self._last
        if known is not None and known.addr != symbol.addr:
            self._cache.invalidate(known.addr, max(known.size, 1))
        self._last = FunctionReport(self._cache, symbol, buffers=self._buffers)
        return self._last


def write_json_in_processes(
    out: TextIO, image: Image, symbol: str | None, buffers: bool, jobs: int, progress: Progress
) -> None:
    """Write to ``out`` what :func:`write_inspect_json` writes.

    :param jobs: the number of processes.
    :param progress: is told how many functions are done, and how many there are.
    :raises InputError: the image has no function ``symbol``; nothing is written then.
    :raises WorkerDied: a process died, or has too little memory.
    """
    functions = named_functions(image, symbol)
    from engine.process_pool import ProcessPool

    tasks = list(_tasks([part] for part in _cut(_sizes(image, functions))))
    out.write(json_start(image))
    with ProcessPool(
        lambda: _JsonTexts(image, functions, buffers=buffers), _JsonTexts.text, jobs
    ) as pool:
        for task, text in zip(tasks, pool.in_order(tasks), strict=True):
            progress(task[0].number, len(functions))
            out.write(text)
    out.write(json_end())


class _PageTexts:
    """This class makes the texts of tasks, in a process of its own.

    :param make_page: makes the page, and is given its functions.
    """

    def __init__(
        self,
        image: Image,
        functions: Sequence[Symbol],
        make_page: Callable[[CodeCache], InspectPage],
        *,
        buffers: bool,
    ) -> None:
        self._functions = functions
        self._buffers = buffers
        self._cache = CodeCache(image)
        self._page = make_page(self._cache)

    def text(self, task: _Task) -> str:
        """Return the lines of ``task``."""
        functions = [self._functions[part.number] for part in task]
        lines: list[str] = []
        for report in inspect_functions(self._cache, functions, buffers=self._buffers):
            lines.extend(self._page.function(report))
        return "".join(f"{line}\n" for line in lines)


def write_lines_in_processes(
    out: TextIO,
    image: Image,
    functions: Sequence[Symbol],
    make_page: Callable[[CodeCache], InspectPage],
    *,
    buffers: bool,
    jobs: int,
    progress: Progress,
) -> None:
    """Write to ``out`` the lines of ``functions`` on a page.

    Functions that are names of the same code come one behind the other in ``functions``. They stay
    together, since a page refers from one of them to the others.

    :param make_page: makes a page, for each process one, and is given its functions.
    :param jobs: the number of processes.
    :param progress: is told how many functions are done, and how many there are.
    :raises WorkerDied: a process died, or has too little memory.
    """
    from engine.process_pool import ProcessPool

    parts = (_Part(number, 0, size) for number, size in enumerate(_sizes(image, functions)))
    same_code = groupby(parts, key=lambda part: functions[part.number].addr)
    tasks = list(_tasks(group for _, group in same_code))
    with ProcessPool(
        lambda: _PageTexts(image, functions, make_page, buffers=buffers), _PageTexts.text, jobs
    ) as pool:
        for task, text in zip(tasks, pool.in_order(tasks), strict=True):
            progress(task[0].number, len(functions))
            out.write(text)
