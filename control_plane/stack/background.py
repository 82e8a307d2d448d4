"""A stack in the background: its supervisor in a session of its own, and the pipe through which it tells its start.

Run as `python -m control_plane.stack.background DIR SIZE` this module is that supervisor.
"""

import asyncio
import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from control_plane.stack.failures import AlreadyRunningError, StackError, StateDirectoryError
from control_plane.stack.layout import StateDir
from control_plane.stack.processes.size import StackSize
from control_plane.stack.progress import Kind, Line, Progress, log_lines
from control_plane.stack.supervisor import Supervisor

_ERRORS = {error.reason: error for error in (StackError, StateDirectoryError, AlreadyRunningError)}


def start_in_background(state_dir: StateDir, progress: Progress, *, size: StackSize) -> Mapping[str, str]:
    """Start a supervisor that outlives us, and return the endpoints once everything answers.

    Interrupted by Ctrl-C it stops what it has started.

    Raises:
        StackError: whatever the supervisor raised.
    """
    state_dir.prepare()
    log = state_dir.log("supervisor")
    with log.open("ab") as errors:
        supervisor = subprocess.Popen(  # noqa: S603 ourselves
            [sys.executable, "-P", "-m", __name__, str(state_dir.root), json.dumps(asdict(size))],
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=errors,
            cwd="/",
            start_new_session=True,
        )
    try:
        for message in supervisor.stdout or ():
            told = json.loads(message)
            if "endpoints" in told:
                return dict(told["endpoints"])
            if "error" in told:
                supervisor.wait()
                raise _error(told)
            progress.relay(Line(kind=Kind(told["kind"]), text=told["text"], seconds=told["seconds"]))
    except KeyboardInterrupt:
        supervisor.send_signal(signal.SIGTERM)
        supervisor.wait()
        raise
    raise StackError(
        f"the supervisor ended with code {supervisor.wait()}",
        remedy="mend what the log names",
        log=log,
    )


def main(directory: str, size: str) -> int:
    """Be the supervisor of a directory; tell the start on stdout, a JSON object a line."""
    state_dir = StateDir(Path(directory))
    log = log_lines(state_dir.log("supervisor"))
    progress = Progress((lambda line: _tell(asdict(line)), log))
    try:
        asyncio.run(Supervisor(state_dir, progress, size=StackSize(**json.loads(size))).run(_tell_ready))
    except StackError as error:
        log(Line(kind=Kind.FAILED, text=error.message))
        seen_in = str(error.log) if error.log else None
        _tell({"error": error.reason, "message": error.message, "remedy": error.remedy, "log": seen_in})
        return 1
    return 0


def _error(told: Mapping[str, Any]) -> StackError:
    log = Path(told["log"]) if told["log"] else None
    return _ERRORS[told["error"]](told["message"], remedy=told["remedy"], log=log)


def _tell_ready(endpoints: Mapping[str, str]) -> None:
    _tell({"endpoints": dict(endpoints)})
    # Whoever waits for us may go now, and nobody reads the pipe any more.
    nowhere = os.open(os.devnull, os.O_WRONLY)
    os.dup2(nowhere, sys.stdout.fileno())
    os.close(nowhere)


def _tell(value: Mapping[str, Any]) -> None:
    try:
        sys.stdout.write(json.dumps(value) + "\n")
        sys.stdout.flush()
    except BrokenPipeError:
        # Whoever started us has gone. The stack goes on, and the log has every line.
        return


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
