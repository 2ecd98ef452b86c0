"""A program at a real terminal: keys in, screens out. Nothing but the standard library."""

import fcntl
import os
import pty
import re
import select
import struct
import subprocess
import sys
import termios
import time
from typing import Self

ESCAPES = re.compile(r"\x1b\[[0-9;?]*[A-Za-z]|\x1b[=>]|\x1b\][^\x07]*\x07")
CLEARED = ("\x1b[2J", "\x1b[H")


class Terminal:
    """`mission-root` on a pseudo terminal. What came since the last key is `screen`, as plain text; `raw` keeps the bytes."""

    def __init__(
        self, *words: str, environment: dict[str, str] | None = None, size: tuple[int, int] = (60, 140)
    ) -> None:
        self.master, slave = pty.openpty()
        fcntl.ioctl(slave, termios.TIOCSWINSZ, struct.pack("HHHH", *size, 0, 0))
        known = {name: value for name, value in os.environ.items() if name not in ("NO_COLOR", "COLUMNS", "LINES")}
        self.process = subprocess.Popen(
            [sys.executable, "-m", "app.cli.main", *words],
            stdin=slave, stdout=slave, stderr=slave, start_new_session=True, close_fds=True,
            preexec_fn=lambda: fcntl.ioctl(0, termios.TIOCSCTTY, 0),  # Ctrl-C reaches it as from a keyboard
            env=known | {"TERM": "xterm-256color"} | (environment or {}),
        )  # fmt: skip
        os.close(slave)
        self.raw = b""
        self.since = 0

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.process.kill()
        self.process.wait()
        os.close(self.master)

    @property
    def screen(self) -> str:
        text = self.raw[self.since :].decode(errors="replace")
        return ESCAPES.sub(
            "", text[max((text.rfind(mark) for mark in CLEARED), default=0) if CLEARED[0] in text else 0 :]
        )

    def read(self, seconds: float) -> bool:
        """Takes in what is there, waiting at most so long for it. False when nothing will come any more."""
        ready, _, _ = select.select([self.master], [], [], seconds)
        if not ready:
            return True
        try:
            more = os.read(self.master, 65_536)
        except OSError:  # the other end is closed
            return False
        self.raw += more
        return bool(more)

    def until(self, *words: str, seconds: float = 20) -> str:
        """The screen once it holds all these words."""
        deadline = time.monotonic() + seconds
        while not all(word in self.screen for word in words):
            assert time.monotonic() < deadline, f"no {words} on this screen:\n{self.screen}"
            assert self.read(0.2) or all(word in self.screen for word in words), f"it ended:\n{self.screen}"
        return self.screen

    def press(self, keys: str, *words: str) -> str:
        """Presses keys and waits for a screen that holds the words."""
        self.since = len(self.raw)
        os.write(self.master, keys.encode())
        return self.until(*words)

    def ended(self, seconds: float = 20) -> int:
        deadline = time.monotonic() + seconds
        while self.read(0.2) and self.process.poll() is None:
            assert time.monotonic() < deadline, f"it goes on:\n{self.screen}"
        return self.process.wait(5)
