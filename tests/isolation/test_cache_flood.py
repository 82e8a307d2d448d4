"""One tenant fills its cache as fast as it may: another one has all that it had, and finds all of it as soon."""

import asyncio
import itertools
import json
import statistics
import subprocess
import sys
import time
from collections.abc import AsyncIterator, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Final

import pytest

from tests.bench.measure import quantile
from tests.fixtures.cache import CacheServer, cache_server, placement

ROOT: Final = Path(__file__).parents[2]
REPORT: Final = ROOT / "build" / "cache_flood.json"
A_NUMBER: Final = 1
# By the size of its values: it has filled that within seconds.
A_LIMITS: Final = {100: 256 << 10, 4_000: 2 << 20, 250_000: 8 << 20}
B: Final = placement(2, cache_bytes=1 << 20)
NAMES: Final = [f"n/{number}" for number in range(200)]
HOUR: Final = timedelta(hours=1)
SECONDS: Final = 2.0


@dataclass(frozen=True, slots=True)
class Reading:
    """What a tenant found while it read all that it has, over and over, and how long each took."""

    hits: int
    seconds: list[float]

    @property
    def hit_ratio(self) -> float:
        return self.hits / len(self.seconds)


@pytest.fixture
async def valkey() -> AsyncIterator[CacheServer]:
    async with cache_server((placement(A_NUMBER), B)) as server:
        yield server


@contextmanager
def flooding(valkey: CacheServer, size: int) -> Iterator["subprocess.Popen[str]"]:
    """Let the first tenant fill its cache, in another process, so that only the server has to do with both."""
    server = valkey.server
    key_file = server.valkey.secrets_dir / "valkey.key"
    numbers = map(str, (A_NUMBER, A_LIMITS[size], size))
    flood = subprocess.Popen(
        [sys.executable, "-m", "tests.isolation.cache_flood", str(server.socket), str(key_file), *numbers],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        text=True,
        cwd=ROOT,
    )
    try:
        yield flood
    finally:
        flood.kill()
        flood.communicate()


async def read(valkey: CacheServer) -> Reading:
    cache, hits, seconds = valkey.of(B), 0, list[float]()
    ends = time.monotonic() + SECONDS
    for name in itertools.cycle(NAMES):
        begun = time.perf_counter()
        hits += await cache.get(name) is not None
        seconds.append(time.perf_counter() - begun)
        if time.monotonic() > ends:
            return Reading(hits, seconds)
    raise AssertionError


def tell(kind: str, alone: Reading, beside: Reading, *, kept: int) -> None:
    """Keep the figures; none of them decides whether the test passes."""
    figures = {
        f"{name}_us": [round(of(reading.seconds) * 1e6) for reading in (alone, beside)]
        for name, of in (("p50", statistics.median), ("p99", lambda seconds: quantile(seconds, 0.99)))
    }
    ratios = {name.replace("_us", "_ratio"): round(beside / alone, 2) for name, (alone, beside) in figures.items()}
    told = {**figures, **ratios, "flood_values": kept}
    REPORT.parent.mkdir(parents=True, exist_ok=True)
    known = json.loads(REPORT.read_text()) if REPORT.exists() else {}
    REPORT.write_text(json.dumps({**known, kind: told}, indent=2) + "\n")
    sys.stdout.write(f"{kind}: {told}\n")


@pytest.mark.behaviour("S1.12")
@pytest.mark.behaviour("I11")
@pytest.mark.behaviour("T-V5")
@pytest.mark.parametrize("size", A_LIMITS)
async def test_a_tenant_that_fills_its_cache_takes_nothing_from_another_one(valkey: CacheServer, size: int) -> None:
    for name in NAMES:
        assert await valkey.of(B).put(name, bytes(1000), HOUR)
    before, alone = await valkey.keys(B), await read(valkey)
    with flooding(valkey, size) as flood:
        assert flood.stdout is not None
        assert await asyncio.to_thread(flood.stdout.readline) == "filling\n"
        beside = await read(valkey)
        flooded = await valkey.of(placement(A_NUMBER)).usage()
        told, _ = await asyncio.to_thread(flood.communicate, "stop\n")
    errors = await valkey.client.info("errorstats")
    tell(f"{size} bytes", alone, beside, kept=int(told))

    assert (alone.hit_ratio, beside.hit_ratio) == (1, 1)
    assert await valkey.keys(B) == before
    assert flooded is not None
    assert A_LIMITS[size] / 2 < flooded.bytes <= A_LIMITS[size]
    assert flooded.values < int(told)
    assert "errorstat_BUSY" not in errors
