"""A process of the product as it starts with other settings: a copy of this one, which has everything imported already."""

import os
import select
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable
from pathlib import Path

from app import settings

LONGEST_S = 60.0


def forked(run: Callable[[], None], environment: dict[str, str], folder: Path) -> tuple[int, str, str]:
    """Runs an entry point in a process of its own, to its end; answers its exit code, stdout and stderr.

    One that does not end is killed after a minute: its exit code is then that of the signal, and the test fails by it.
    """
    with tempfile.TemporaryFile() as out, tempfile.TemporaryFile() as err:
        ended, alive = os.pipe()  # the child holds alive until it ends
        child = os.fork()
        if child == 0:
            code = 1
            try:
                os.close(ended)
                os.dup2(out.fileno(), 1)
                os.dup2(err.fileno(), 2)
                sys.stdout, sys.stderr = open(1, "w", closefd=False), open(2, "w", closefd=False)  # noqa: SIM115
                os.chdir(folder)
                os.environ.clear()
                os.environ.update(environment)
                settings.load.cache_clear()
                run()
                code = 0
            except SystemExit as leaving:
                code = leaving.code if isinstance(leaving.code, int) else 1
                if isinstance(leaving.code, str):
                    print(leaving.code, file=sys.stderr)
            except BaseException:
                traceback.print_exc()
            finally:
                sys.stdout.flush()
                sys.stderr.flush()
                os._exit(code)
        os.close(alive)
        if not select.select([ended], [], [], LONGEST_S)[0]:
            os.kill(child, signal.SIGKILL)
        os.close(ended)
        _, status = os.waitpid(child, 0)
        return os.waitstatus_to_exitcode(status), *(read(one.fileno()) for one in (out, err))


def read(file: int) -> str:
    os.lseek(file, 0, os.SEEK_SET)
    return os.read(file, 1 << 20).decode()
