"""A program for the tests: run PostgreSQL in a directory until the end of stdin. Prints its pid, or what hinders it."""

import asyncio
import sys
from pathlib import Path

from control_plane.stack.failures import StackError
from control_plane.stack.postgres import Postgres


async def serve(folder: Path) -> None:
    postgres = Postgres(data_dir=folder / "data", socket_dir=folder, log=folder / "log", settings={"fsync": "off"})
    await postgres.initialise()
    server = await postgres.start()
    sys.stdout.write(f"{server.pid}\n")
    sys.stdout.flush()
    await asyncio.to_thread(sys.stdin.read)
    await server.stop()


# A folder of packages that go before the installed ones.
sys.path[:0] = sys.argv[2:]
try:
    asyncio.run(serve(Path(sys.argv[1])))
except StackError as error:
    sys.exit(f"{error.message}\n{error.remedy}")
