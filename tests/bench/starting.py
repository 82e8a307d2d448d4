"""How long starting takes: `up`, from nothing and again, beside a bare PostgreSQL; and the command line by itself."""

import asyncio
import secrets
import sys
from collections.abc import AsyncIterator
from functools import partial
from typing import Final

from control_plane.stack.postgres import Postgres
from tests.bench.measure import Figure, by_turns, figures, timed
from tests.bench.system import System, bulkhead

ROUNDS: Final = 3
ASKED: Final = 15


async def start_up(system: System) -> AsyncIterator[Figure]:
    """Start a stack in an empty directory, stop it, start it again; beside the one that runs already."""
    times: dict[str, list[float]] = {"fresh": [], "fresh bare": [], "again": [], "again bare": []}
    for _ in range(ROUNDS):
        folder = system.folder / secrets.token_hex(4)
        folder.mkdir(mode=0o700)
        bare = Postgres(data_dir=folder / "data", socket_dir=folder, log=folder / "log")
        for kind in ("fresh", "again"):
            times[f"{kind} bare"].append(await timed(partial(_start, bare)))
            times[kind].append(await timed(partial(bulkhead, folder / "stack", "up", "--detach")))
            await bulkhead(folder / "stack", "down")
    for case, kind in (("up_from_nothing", "fresh"), ("up_again", "again")):
        for figure in figures(case, times[kind], times[f"{kind} bare"]):
            yield figure


async def command_line(_: System) -> AsyncIterator[Figure]:
    """Ask for the help and the version; beside an interpreter that does next to nothing."""
    for argument in ("help", "version"):
        taken, compared = await by_turns(
            partial(_run, "-m", "control_plane", f"--{argument}"),
            partial(_run, "-c", "import json, inspect, pathlib, typing"),
            runs=ASKED,
        )
        for figure in figures(f"cli_{argument}", taken, compared):
            yield figure


async def _run(*arguments: str) -> None:
    done = await asyncio.create_subprocess_exec(sys.executable, *arguments, stdout=asyncio.subprocess.DEVNULL)
    await done.wait()


async def _start(bare: Postgres) -> None:
    await bare.initialise()
    server = await bare.start()
    await server.stop()
