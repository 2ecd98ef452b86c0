"""Single keys from a terminal, and lines in between; nothing that is typed early is lost."""

import os
import select
import sys
import termios
import tty
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any


class Keys:
    """The keyboard while a screen is driven by single keys. Ctrl-C reads as the key q."""

    def __init__(self) -> None:
        self.file = sys.stdin.fileno()
        self.lines: list[Any] = termios.tcgetattr(self.file)

    def next(self) -> str:
        """The next key; an arrow as its escape sequence; q when nobody types any more."""
        try:
            pressed = os.read(self.file, 1)
            if pressed == b"\x1b" and select.select([self.file], [], [], 0.05)[0]:
                pressed += os.read(self.file, 2)
        except KeyboardInterrupt:
            return "q"
        return pressed.decode(errors="replace") or "q"

    def line(self, question: str, default: str = "") -> str:
        """A line, edited and ended by Enter; empty when it is given up by Ctrl-C."""
        shown = f"{question} [{default}]: " if default else f"{question}: "
        termios.tcsetattr(self.file, termios.TCSADRAIN, self.lines)
        try:
            return input(shown).strip() or default
        except (KeyboardInterrupt, EOFError):
            return ""
        finally:
            tty.setcbreak(self.file, termios.TCSADRAIN)


@contextmanager
def keyboard() -> Iterator[Keys]:
    """Keys one by one while the block runs; the terminal is as it was afterwards."""
    keys = Keys()
    tty.setcbreak(keys.file, termios.TCSADRAIN)
    try:
        yield keys
    finally:
        termios.tcsetattr(keys.file, termios.TCSADRAIN, keys.lines)
