"""A process that has loaded the libraries, and divides into one for each copy, where pytest then has less to do.

It stands in each copy's environment as `leaks_nursery`, and imports nothing of ours: what a child of it imports is the
copy's. Told of each child on a line of JSON, it answers with the child's pid, and with its status at the end. It ends
with its input.
"""

import gc
import importlib
import json
import os
import selectors
import signal
import sys
import tempfile
from contextlib import suppress
from pathlib import Path
from typing import Any, Final, NoReturn

_LINE: Final = 1 << 20


def main() -> None:
    """Load the libraries that the first line names, and serve."""
    lines = os.fdopen(os.dup(0), "rb", buffering=0)
    for name in json.loads(lines.readline()):
        # What is not loaded here, a child loads itself.
        with suppress(Exception):
            importlib.import_module(name)
    # No child need look through all of it for what it could throw away.
    gc.collect()
    gc.freeze()
    _Nursery().serve()


class _Nursery:
    def __init__(self) -> None:
        self._numbers: dict[int, int] = {}
        self._unread = b""
        self._woken, waker = os.pipe2(os.O_NONBLOCK | os.O_CLOEXEC)
        signal.signal(signal.SIGCHLD, lambda *_: None)
        signal.set_wakeup_fd(waker, warn_on_full_buffer=False)

    def serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(0, selectors.EVENT_READ)
            selector.register(self._woken, selectors.EVENT_READ)
            while True:
                ready = {key.fd for key, _ in selector.select()}
                if self._woken in ready:
                    os.read(self._woken, _LINE)
                    self._bury()
                if 0 in ready and not self._hear():
                    return

    def _hear(self) -> bool:
        heard = os.read(0, _LINE)
        *lines, self._unread = (self._unread + heard).split(b"\n")
        for line in lines:
            wanted = json.loads(line)
            pid = os.fork()
            if pid == 0:
                _live(wanted)
            self._numbers[pid] = wanted["number"]
            _say({"number": wanted["number"], "pid": pid})
        return bool(heard)

    def _bury(self) -> None:
        with suppress(ChildProcessError):
            while (ended := os.waitpid(-1, os.WNOHANG))[0]:
                number = self._numbers.pop(ended[0])
                _say({"number": number, "status": os.waitstatus_to_exitcode(ended[1])})


def _live(wanted: dict[str, Any]) -> NoReturn:
    """Become what would have been started in the copy anew."""
    os.setsid()
    signal.set_wakeup_fd(-1)
    signal.signal(signal.SIGCHLD, signal.SIG_DFL)
    os.dup2(os.open(os.devnull, os.O_RDONLY), 0)
    log = os.open(wanted["log"], os.O_WRONLY | os.O_CREAT | os.O_TRUNC, 0o600)
    os.dup2(log, 1)
    os.dup2(log, 2)
    os.environ.clear()
    os.environ.update(wanted["environment"])
    os.chdir(wanted["root"])
    _move(wanted["root"])
    sys.argv = ["pytest", *wanted["arguments"]]
    sys.dont_write_bytecode = "PYTHONDONTWRITEBYTECODE" in os.environ
    tempfile.tempdir = None
    import pytest  # noqa: PLC0415 a nursery of a tree without it has children all the same

    sys.exit(pytest.main(wanted["arguments"]))


def _move(root: str) -> None:
    """Look for modules and programs there, in place of the copy that this process was started in."""
    home = str(Path(sys.prefix).parent)
    sys.path[:] = [path.replace(home, root, 1) if path.startswith(home) else path for path in sys.path]
    sys.path_importer_cache.clear()
    sys.executable = sys.executable.replace(home, root, 1)
    sys.prefix = sys.exec_prefix = sys.prefix.replace(home, root, 1)


def _say(answer: dict[str, int]) -> None:
    os.write(1, json.dumps(answer).encode() + b"\n")


if __name__ == "__main__":
    main()
