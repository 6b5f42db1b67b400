"""A limit on what a user's Python code does in one step of a control task.

Between two points of a control task nothing else runs, so code that goes round for ever would hang
the whole search. The limit counts the bytecode instructions of the user's own functions, so the
same code ends in the same way on every machine.
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path
from types import CodeType, FrameType
from typing import Any, Final

from engine.errors import InputError, printable
from engine.patching.own_code import OwnCode

__all__ = ("INSTRUCTIONS_MOST", "CodeLimit", "EndlessCodeError")

INSTRUCTIONS_MOST: Final = 5_000_000
"""A control task's own code may execute so many bytecode instructions in one step."""


class EndlessCodeError(InputError):
    """A control task's own code has gone on for too long. The message has the place."""


class CodeLimit:
    """This object ends a control task whose own code goes on for too long without a point.

    It does nothing while a debugger, or whatever else traces Python, is at work.

    :param own: tells which code is the project's, which is not counted.
    """

    def __init__(self, own: OwnCode) -> None:
        self._own = own
        self._left = INSTRUCTIONS_MOST
        self._counted: dict[CodeType, bool] = {}
        # One object each, so that the tracer that is set can be told from others.
        self._tracer: Callable[[FrameType, str, Any], Any] = self._enter
        self._counter: Callable[[FrameType, str, Any], Any] = self._execute

    def begin(self) -> None:
        """Begin to count, on the greenlet of the control task that makes a step."""
        self._left = INSTRUCTIONS_MOST
        if sys.gettrace() is None:
            sys.settrace(self._tracer)

    def end(self) -> None:
        """End the counting, on the same greenlet."""
        if sys.gettrace() is self._tracer:
            sys.settrace(None)

    def _enter(self, frame: FrameType, _event: str, _arg: object) -> Any:
        """Return what counts the instructions of a function that is called, or None."""
        code = frame.f_code
        counted = self._counted.get(code)
        if counted is None:
            own = self._own.has(str(frame.f_globals.get("__name__", "")))
            counted = self._counted[code] = not own
        if not counted:
            return None
        # A loop of one instruction, `while True: pass`, comes to no new line.
        frame.f_trace_lines, frame.f_trace_opcodes = False, True
        return self._counter

    def _execute(self, frame: FrameType, event: str, _arg: object) -> Any:
        """Count an instruction.

        :raises EndlessCodeError: there were too many.
        """
        if event == "opcode":
            self._left -= 1
            if self._left < 0:
                place = f"{Path(frame.f_code.co_filename).name}:{frame.f_lineno}"
                raise EndlessCodeError(
                    f"{printable(place)}: a control task's code has executed {INSTRUCTIONS_MOST:,}"
                    " bytecode instructions without an operation at which others can go on; a"
                    " control task has to end, and its loops, too"
                )
        return self._counter
