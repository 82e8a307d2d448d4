"""Whoever ends is told of, and started anew."""

import asyncio

import pytest

from ext_authz.workers import Workers
from tests.fixtures.eventually import eventually


async def test_an_end_is_told_each_time() -> None:
    ended: list[str] = []
    workers = Workers(2, command=lambda _: ("true",), heard=lambda _: 0, ended=ended.append)
    running = asyncio.create_task(workers.run())
    await eventually(lambda: min(ended.count(name) for name in ("worker-0", "worker-1")) >= 2)
    running.cancel()
    with pytest.raises(asyncio.CancelledError):
        await running

    assert set(ended) == {"worker-0", "worker-1"}
