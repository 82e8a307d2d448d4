"""Valkey as our child: what it keeps, whom it lets in, and that it gives nothing up to make room."""

import asyncio
from collections.abc import AsyncIterator
from pathlib import Path

import pytest
from redis import Redis
from redis.exceptions import NoPermissionError

from control_plane import cell_key
from control_plane.stack.failures import StackError
from control_plane.stack.valkey import Valkey
from tests.fixtures.valkey import control_plane, superuser


@pytest.fixture
def valkey(short_dir: Path) -> Valkey:
    (short_dir / "data").mkdir()
    return Valkey(
        data_dir=short_dir / "data",
        socket=short_dir / "valkey.sock",
        log=short_dir / "log",
        secrets_dir=short_dir / "secrets",
    )


@pytest.fixture
async def running(valkey: Valkey) -> AsyncIterator[Valkey]:
    server = await valkey.start()
    yield valkey
    await server.stop()


async def test_what_was_written_is_there_after_a_kill(valkey: Valkey) -> None:
    server = await valkey.start()
    async with superuser(valkey.socket, valkey.secrets_dir) as client:
        await client.set("kept", "yes")
    server.kill()
    await server.ended()
    again = await valkey.start()
    async with superuser(valkey.socket, valkey.secrets_dir) as client:
        kept = await client.get("kept")
    await again.stop()

    assert kept == b"yes"


async def test_it_listens_on_a_private_socket_alone_and_evicts_nothing(valkey: Valkey) -> None:
    server = await valkey.start()
    async with superuser(valkey.socket, valkey.secrets_dir) as client:
        port = await client.config_get("port")
        policy = await client.config_get("maxmemory*")
    mode = valkey.socket.stat().st_mode
    await server.stop()

    assert port == {"port": "0"}
    assert (policy["maxmemory-policy"], policy["maxmemory"]) == ("noeviction", str(512 << 20))
    assert mode & 0o077 == 0


async def test_a_server_that_cannot_start_says_where_the_reason_is(valkey: Valkey) -> None:
    (valkey.data_dir / "appendonlydir").touch()
    with pytest.raises(StackError) as raised:
        await valkey.start()

    assert raised.value.log == valkey.log
    assert valkey.log.read_text()


async def answered(valkey: Valkey, line: str) -> str:
    """Send a line as somebody who has just come in, and return the answer's."""
    reader, writer = await asyncio.open_unix_connection(valkey.socket)
    writer.write(f"{line}\r\n".encode())
    answer = await reader.readline()
    writer.close()
    return answer.decode().strip()


@pytest.mark.behaviour("T-V1")
@pytest.mark.parametrize("command", ["PING", "GET a", "CONFIG GET *", "ACL WHOAMI", "CLIENT LIST", "FLUSHALL", "INFO"])
async def test_who_does_not_say_who_it_is_may_do_nothing(running: Valkey, command: str) -> None:
    assert await answered(running, command) == "-NOAUTH Authentication required."


@pytest.mark.behaviour("T-V1")
@pytest.mark.parametrize("login", ['""', "x", 'default ""', "default x", 'edge ""', "edge edge", "control-plane x"])
async def test_nobody_is_let_in_without_the_password(running: Valkey, login: str) -> None:
    assert await answered(running, f"AUTH {login}") == "-WRONGPASS invalid username-password pair or user is disabled."


@pytest.mark.behaviour("T-V1")
async def test_only_the_platforms_users_are_there_at_each_start(valkey: Valkey) -> None:
    first = await valkey.start()
    async with superuser(valkey.socket, valkey.secrets_dir) as client:
        await client.acl_setuser("stranger", enabled=True, nopass=True, keys=["*"], categories=["+@all"])
    await first.stop()
    second = await valkey.start()
    with control_plane(valkey.socket, valkey.secrets_dir) as client_after:
        users = set(client_after.acl_users())
    await second.stop()

    assert users == {"default", "edge", "control-plane"}


async def test_the_file_of_users_holds_no_password_and_is_for_our_eyes_only(running: Valkey) -> None:
    path = running.data_dir / "users.acl"
    keys = [cell_key.load_or_create(running.secrets_dir / name) for name in ("valkey.key", "valkey-edge.key")]
    passwords = [cell_key.password(key, user) for key in keys for user in ("edge", "control-plane")]

    assert path.stat().st_mode & 0o077 == 0
    assert keys[0] != keys[1]
    assert not any(password in path.read_text() for password in passwords)
    assert not any(password in running.log.read_text() for password in passwords)


@pytest.mark.behaviour("T-V1")
@pytest.mark.parametrize(
    "command",
    ["GET tenant:{org_1}:x", "SET x 1", "KEYS *", "SCAN 0", "ACL LIST", "ACL SAVE", "ACL LOAD", "CONFIG GET *",
     "FLUSHALL", "FUNCTION FLUSH", "FUNCTION DUMP", "EVAL return 0", "FCALL take_calls 0", "CLIENT LIST", "INFO"],
)  # fmt: skip
async def test_the_control_plane_has_no_keys_and_does_nothing_but_users(running: Valkey, command: str) -> None:
    with control_plane(running.socket, running.secrets_dir) as client, pytest.raises(NoPermissionError):
        client.execute_command(*command.split())


@pytest.mark.behaviour("T-V1")
@pytest.mark.parametrize(
    "command",
    ["GET tenant:{org_1}:x", "SET x 1", "INCRBY edges 1", "KEYS *", "SCAN 0", "ACL USERS", "ACL SETUSER x on", "INFO",
     "CONFIG GET *", "FLUSHALL", "FUNCTION FLUSH", "FUNCTION LIST", "EVAL return 0", "DEL edge:x", "CLIENT LIST"],
)  # fmt: skip
async def test_the_edge_has_its_own_keys_and_does_nothing_but_count(running: Valkey, command: str) -> None:
    password = cell_key.password(cell_key.load_or_create(running.secrets_dir / "valkey-edge.key"), "edge")
    with Redis(unix_socket_path=str(running.socket), username="edge", password=password) as client:
        client.set("edge:x", "1")
        assert client.get("edge:x") == b"1"
        with pytest.raises(NoPermissionError):
            client.execute_command(*command.split())
