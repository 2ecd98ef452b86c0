"""A process of the product as it starts with other settings: a copy of this one, which has everything imported already."""

import os
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

from app import settings


def forked(run: Callable[[], None], environment: dict[str, str], folder: Path) -> tuple[int, str, str]:
    """Runs an entry point in a process of its own, to its end; answers its exit code, stdout and stderr."""
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
                os.chdir(folder)
                os.environ.clear()
                os.environ.update(environment)
                settings.load.cache_clear()
                run()
                code = 0
            except SystemExit as ended:
                code = ended.code if isinstance(ended.code, int) else 1
                if isinstance(ended.code, str):
                    print(ended.code, file=sys.stderr)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status), *(read(one.fileno()) for one in (out, err))


def read(file: int) -> str:
    os.lseek(file, 0, os.SEEK_SET)
    return os.read(file, 1 << 20).decode()
