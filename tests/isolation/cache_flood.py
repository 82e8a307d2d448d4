"""A tenant that fills its cache as fast as it may, in a process of its own: SOCKET KEY_FILE TENANT LIMIT SIZE.

Says `filling` once it has begun to lose values of its own, and ends with its standard input, saying how many it kept.
"""

import asyncio
import itertools
import os
import sys
from datetime import timedelta
from pathlib import Path
from typing import Final

import structlog
import uvloop

from control_plane import cell_key
from control_plane.cache.handles import Caches
from tests.fixtures.cache import derive, placement

AT_ONCE: Final = 8
PAUSE_S: Final = 0.001
# What a value takes beside its size is more than this.
OVERHEAD: Final = 200
HOUR: Final = timedelta(hours=1)


async def flood(socket: Path, secret: bytes, *, tenant: int, limit: int, size: int) -> None:
    names, kept = itertools.count(), 0
    stop = asyncio.Event()
    asyncio.get_running_loop().add_reader(sys.stdin, stop.set)
    async with Caches.open(socket, derive, secret) as caches:
        cache = caches.of(placement(tenant, cache_bytes=limit))

        async def put_on() -> None:
            nonlocal kept
            while not stop.is_set():
                is_kept = await cache.put(f"n/{next(names)}", os.urandom(size), HOUR)
                kept += is_kept
                if not is_kept:
                    # It has had its share of the server.
                    await asyncio.sleep(PAUSE_S)
                # By then it has no room left: each takes more than its size.
                if is_kept and kept == limit // (size + OVERHEAD) + 1:
                    sys.stdout.write("filling\n")
                    sys.stdout.flush()

        await asyncio.gather(*(put_on() for _ in range(AT_ONCE)))
    sys.stdout.write(f"{kept}\n")


def main() -> None:
    socket, key_file, *numbers = sys.argv[1:]
    tenant, limit, size = map(int, numbers)
    # Standard output is for what the test waits for.
    structlog.configure(logger_factory=structlog.WriteLoggerFactory(sys.stderr))
    secret = cell_key.load_or_create(Path(key_file))
    uvloop.run(flood(Path(socket), secret, tenant=tenant, limit=limit, size=size))


if __name__ == "__main__":
    main()
