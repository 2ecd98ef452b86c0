"""A command in this process instead of in one of its own: the same words, environment, streams and exit code, a second sooner."""

import io
import os
import subprocess
import sys
import threading
from typing import Any

from app import settings
from app.cli import main

Done = subprocess.CompletedProcess[str]
ONE_AT_A_TIME = threading.Lock()


class Own:
    """A stream that keeps what the command's thread writes; the words of others go where they went before."""

    def __init__(self, others: Any) -> None:
        self.others, self.thread, self.kept = others, threading.get_ident(), io.StringIO()

    def __getattr__(self, name: str) -> Any:
        return getattr(self.kept if threading.get_ident() == self.thread else self.others, name)


def command(*words: str, environment: dict[str, str]) -> Done:
    """`mission-root` with exactly this environment. Called in a thread of its own where a loop goes on beside it."""
    with ONE_AT_A_TIME:
        kept = dict(os.environ), sys.argv, sys.stdout, sys.stderr
        out, err = Own(sys.stdout), Own(sys.stderr)
        code: Any = 0
        try:
            os.environ.clear()
            os.environ.update(environment)
            sys.argv, sys.stdout, sys.stderr = ["mission-root", *words], out, err  # type: ignore[assignment]
            settings.load.cache_clear()
            main.run()
        except SystemExit as ended:
            code = ended.code
        finally:
            os.environ.clear()
            os.environ.update(kept[0])
            sys.argv, sys.stdout, sys.stderr = kept[1:]
            settings.load.cache_clear()
    return Done(["mission-root", *words], int(code or 0), out.kept.getvalue(), err.kept.getvalue())
