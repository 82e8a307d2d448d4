"""Valkey as our child: what it keeps, and that it gives nothing up to make room."""

from pathlib import Path

import pytest
from redis.asyncio import Redis

from control_plane.stack.failures import StackError
from control_plane.stack.valkey import Valkey


@pytest.fixture
def valkey(short_dir: Path) -> Valkey:
    (short_dir / "data").mkdir()
    return Valkey(data_dir=short_dir / "data", socket=short_dir / "valkey.sock", log=short_dir / "log")


async def test_what_was_written_is_there_after_a_kill(valkey: Valkey) -> None:
    server = await valkey.start()
    async with Redis(unix_socket_path=str(valkey.socket)) as client:
        await client.set("kept", "yes")
    server.kill()
    await server.ended()
    again = await valkey.start()
    async with Redis(unix_socket_path=str(valkey.socket)) as client:
        kept = await client.get("kept")
    await again.stop()

    assert kept == b"yes"


async def test_it_listens_on_a_private_socket_alone_and_evicts_nothing(valkey: Valkey) -> None:
    server = await valkey.start()
    async with Redis(unix_socket_path=str(valkey.socket)) as client:
        port = await client.config_get("port")
        policy = await client.config_get("maxmemory-policy")
    mode = valkey.socket.stat().st_mode
    await server.stop()

    assert port == {"port": "0"}
    assert policy == {"maxmemory-policy": "noeviction"}
    assert mode & 0o077 == 0


async def test_a_server_that_cannot_start_says_where_the_reason_is(valkey: Valkey) -> None:
    (valkey.data_dir / "appendonlydir").touch()
    with pytest.raises(StackError) as raised:
        await valkey.start()

    assert raised.value.log == valkey.log
    assert valkey.log.read_text()
