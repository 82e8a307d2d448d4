"""Whatever a tenant's user says to Valkey, it sees no other tenant's value and no other tenant's key by name.

Every command that the server has is sent with another tenant's keys in several places, and beside them what is known to
lead around key patterns: scripts, patterns of SORT, databases, channels, streams, hash tags, functions that are given
others' keys. The other tenant has a marker in a key of each type, and one in a key's name that nobody says aloud.
"""

from collections.abc import AsyncIterator, Iterator, Sequence
from typing import Final
from uuid import uuid4

import pytest
import pytest_asyncio

from control_plane.cache.acl import tenant_user
from control_plane.cache.connection import Command, Connection, ConnectionGoneError, Login, RefusedError, Reply
from control_plane.cache.handles import login
from tests.fixtures.cache import CacheServer, cache_server, placement
from tests.fixtures.valkey import SUPERUSER

pytestmark = pytest.mark.asyncio(loop_scope="module")

A, B = placement(1), placement(2)
VALUE: Final = f"CNRY-value-{uuid4().hex}"
NAME: Final = f"CNRY-name-{uuid4().hex}"
OWN: Final = "tenant:{org_1}:own"
THEIRS: Final = "tenant:{org_2}:"
TYPES: Final = ("string", "list", "hash", "set", "zset", "stream")
FOREIGN: Final = tuple(f"{THEIRS}{kind}" for kind in TYPES)
# So many is asked for; there are more.
LEAST: Final = 300

# `{f}` is another tenant's key, `{o}` the attacker's own.
TRICKS: Final = (
    "EVAL|return server.call('GET', KEYS[1])|1|{f}",
    "EVAL|return server.call('KEYS', '*')|0",
    "EVAL|return server.pcall('GET', ARGV[1])|1|{o}|{f}",
    "EVAL_RO|return server.call('GET', KEYS[1])|1|{f}",
    "EVAL|#!lua flags=allow-cross-slot-keys\nreturn server.call('GET', ARGV[1])|0|{f}",
    "EVALSHA|0000000000000000000000000000000000000000|1|{f}",
    "EVALSHA_RO|0000000000000000000000000000000000000000|1|{f}",
    "SCRIPT|LOAD|return server.call('KEYS', '*')",
    "SCRIPT|FLUSH",
    "FUNCTION|LOAD|#!lua name=x\nserver.register_function('x', function() return server.call('KEYS', '*') end)",
    "FUNCTION|LOAD|REPLACE|#!lua name=bulkhead_cache\nserver.register_function('cache_get', function() return 1 end)",
    "FUNCTION|DUMP",
    "FUNCTION|LIST|WITHCODE",
    "FUNCTION|DELETE|bulkhead_cache",
    "FCALL|cache_get|1|tenant:{org_2}:cache|dddddddddddddddddddddd",
    "FCALL|cache_get|1|{f}|dddddddddddddddddddddd",
    "FCALL|cache_get|2|{o}|{f}|dddddddddddddddddddddd",
    "FCALL|cache_get|0|{f}|dddddddddddddddddddddd",
    "FCALL|cache_get|1|{o}|:v:x}:../{f}",
    "FCALL|cache_put|1|tenant:{org_2}:cache|dddddddddddddddddddddd|x|1000|1000000",
    "FCALL|cache_delete|1|tenant:{org_2}:cache|dddddddddddddddddddddd",
    "FCALL|cache_usage|1|tenant:{org_2}:cache",
    "FCALL|cache_clear|1|tenant:{org_2}:cache",
    "FCALL_RO|cache_get|1|{f}|dddddddddddddddddddddd",
    "FCALL|take_calls|2|{f}|{f}|x|1|1|5|1|0|1|9999999999999",
    "FCALL|give_back_calls|2|{f}|{f}|x|9999999999999|1|1|0",
    "SORT|{o}|BY|{f}*|GET|{f}*",
    "SORT|{o}|BY|nosort|GET|{f}",
    "SORT|{f}",
    "SORT|{o}|STORE|{f}",
    "SORT_RO|{o}|BY|*|GET|*",
    "COPY|{f}|{o}",
    "COPY|{f}|{o}|DB|1|REPLACE",
    "COPY|{o}|{f}|REPLACE",
    "MOVE|{f}|1",
    "SWAPDB|0|1",
    "SELECT|1",
    "RENAME|{f}|{o}",
    "RENAMENX|{f}|{o}",
    "MIGRATE|127.0.0.1|1||0|100|COPY|KEYS|{f}",
    "MIGRATE|127.0.0.1|1|{f}|0|100",
    "DUMP|{f}",
    "RESTORE|{f}|0|x|REPLACE",
    "OBJECT|ENCODING|{f}",
    "OBJECT|FREQ|{f}",
    "OBJECT|IDLETIME|{f}",
    "OBJECT|REFCOUNT|{f}",
    "MEMORY|USAGE|{f}",
    "MEMORY|DOCTOR",
    "MEMORY|STATS",
    "SET|{o}|x|GET",
    "SET|{f}|x|GET",
    "SET|{f}|x|KEEPTTL",
    "GETEX|{f}|PERSIST",
    "GETDEL|{f}",
    "ZRANGESTORE|{o}|{f}|0|-1",
    "ZUNIONSTORE|{o}|1|{f}",
    "ZINTER|2|{f}|{f}",
    "SDIFFSTORE|{o}|{f}",
    "SINTERCARD|1|{f}",
    "LMOVE|{f}|{o}|LEFT|LEFT",
    "BLMOVE|{f}|{o}|LEFT|LEFT|1",
    "LMPOP|1|{f}|LEFT",
    "BZMPOP|1|1|{f}|MIN",
    "BITOP|AND|{o}|{f}",
    "PFMERGE|{o}|{f}",
    "PFCOUNT|{f}",
    "LCS|{o}|{f}",
    "GEOSEARCHSTORE|{o}|{f}|FROMLONLAT|0|0|BYRADIUS|1|m",
    "XREAD|STREAMS|{f}|0",
    "XREADGROUP|GROUP|g|c|STREAMS|{f}|>",
    "XGROUP|CREATE|{f}|g|0",
    "XRANGE|{f}|-|+",
    "XINFO|STREAM|{f}|FULL",
    "XAUTOCLAIM|{f}|g|c|0|0",
    "KEYS|*",
    "KEYS|tenant:{org_1}:*",
    "SCAN|0|MATCH|*",
    "SCAN|0|TYPE|string",
    "RANDOMKEY",
    "DBSIZE",
    "INFO|keyspace",
    "INFO|everything",
    "CONFIG|GET|*",
    "CONFIG|SET|notify-keyspace-events|KEA",
    "CONFIG|REWRITE",
    "SUBSCRIBE|__keyspace@0__:{f}",
    "PSUBSCRIBE|*",
    "SSUBSCRIBE|{f}",
    "PUBLISH|x|y",
    "PUBSUB|CHANNELS",
    "CLIENT|TRACKING|ON|BCAST",
    "CLIENT|LIST",
    "CLIENT|KILL|TYPE|normal",
    "CLIENT|NO-TOUCH|ON",
    "MONITOR",
    "SLOWLOG|GET|100",
    "COMMANDLOG|GET|100|slow",
    "LATENCY|LATEST",
    "ACL|WHOAMI",
    "ACL|LIST",
    "ACL|LOG",
    "ACL|SETUSER|x|on|nopass|allkeys|+@all",
    "ACL|GETUSER|default",
    "ACL|DRYRUN|default|GET|{f}",
    "CLUSTER|GETKEYSINSLOT|0|100",
    "CLUSTER|KEYSLOT|{f}",
    "CLUSTER|COUNTKEYSINSLOT|0",
    "DEBUG|OBJECT|{f}",
    "MODULE|LIST",
    "SYNC",
    "PSYNC|?|-1",
    "REPLICAOF|127.0.0.1|1",
    "FAILOVER",
    "SAVE",
    "BGREWRITEAOF",
    "SHUTDOWN|NOSAVE",
    "FLUSHALL",
    "FLUSHDB|ASYNC",
    "MULTI",
    "WATCH|{f}",
    "WAIT|0|0",
    # Names that only look like the tenant's own.
    "GET|tenant:{org_1}{org_2}:string",
    "GET|tenant:{org_1",
    "GET|tenant:{org_1}",
    "GET|tenant:org_1:string",
    "GET|TENANT:{ORG_1}:string",
    "GET| {o}",
    "GET|edge:{org_1}:minute",
    "GET|*",
    "GET|{o}\n{f}",
    "DEL|{o}|{f}",
    "EXISTS|{f}",
    "TYPE|{f}",
    "TTL|{f}",
    "TOUCH|{f}",
    "UNLINK|{f}",
    "MGET|{o}|{f}",
    "MSET|{o}|x|{f}|y",
    "HGETALL|{f}",
    "HSET|{f}|a|b",
    "ZADD|{f}|1|a",
    "ZSCORE|{f}|a",
    "ZRANGE|{f}|0|-1|WITHSCORES",
    "PEXPIREAT|{f}|1",
)


@pytest_asyncio.fixture(scope="module", loop_scope="module")
async def valkey() -> AsyncIterator[CacheServer]:
    async with cache_server((A, B)) as server:
        client = server.client
        await client.set(f"{THEIRS}string", VALUE)
        await client.rpush(f"{THEIRS}list", VALUE)
        await client.hset(f"{THEIRS}hash", VALUE, VALUE)
        await client.sadd(f"{THEIRS}set", VALUE)
        await client.zadd(f"{THEIRS}zset", {VALUE: 1})
        await client.xadd(f"{THEIRS}stream", {"field": VALUE})
        await client.set(f"{THEIRS}{NAME}", VALUE)
        yield server


class Attacker:
    """Somebody who has got hold of a tenant's password."""

    def __init__(self, valkey: CacheServer, who: Login) -> None:
        self._socket = valkey.server.socket
        self._login = who

    async def says(self, command: Command) -> Reply | RefusedError | None:
        """Send a command on a connection of its own, so that none has anything to do with the one before."""
        connection = await Connection.open(self._socket)
        try:
            (answer,) = await connection.call(self._login, command)
        except ConnectionGoneError:
            return None
        finally:
            await connection.close()
        return answer


def attacker(valkey: CacheServer) -> Attacker:
    return Attacker(valkey, login(tenant_user(A, valkey.server.secret)))


def shapes(words: Sequence[str]) -> Iterator[Command]:
    """Put another tenant's keys where a command may have one."""
    yield words
    for foreign in FOREIGN:
        yield (*words, foreign)
    (foreign, *_) = FOREIGN
    for rest in (
        (OWN, foreign), (foreign, OWN), ("1", foreign), ("0", foreign), (foreign, "0"), (foreign, "0", "-1"),
        (foreign, "1", "x"), (OWN, "1", foreign), ("x", foreign), (foreign, foreign, "0"), ("STREAMS", foreign, "0"),
        (OWN, OWN, foreign),
    ):  # fmt: skip
        yield (*words, *rest)


async def everything_of(valkey: CacheServer) -> dict[str, tuple[object, object]]:
    """Return all of the other tenant's keys, as they are."""
    async with valkey.server.superuser() as client:
        keys = sorted([key.decode() for key in await client.keys(f"{THEIRS}*") if isinstance(key, bytes)])
        return {key: (await client.dump(key), await client.pexpiretime(key)) for key in keys}


def shown(answer: object) -> str:
    return repr(answer) if not isinstance(answer, RefusedError) else str(answer)


async def commands_of(valkey: CacheServer) -> list[list[str]]:
    """Return every command that the server has, subcommands included."""
    found = await Attacker(valkey, Login(user=SUPERUSER, password=SUPERUSER)).says(("COMMAND", "LIST"))
    assert isinstance(found, list)
    return sorted(name.decode().split("|") for name in found if isinstance(name, bytes))


@pytest.mark.behaviour("T-V2")
@pytest.mark.behaviour("S1.11")
@pytest.mark.timeout(300)
async def test_no_command_shows_anything_of_another_tenants(valkey: CacheServer) -> None:
    before, stranger = await everything_of(valkey), attacker(valkey)
    commands = await commands_of(valkey)
    leaks, sent = [], 0
    for words in commands:
        for command in shapes(words):
            answer, sent = await stranger.says(command), sent + 1
            if VALUE in shown(answer) or NAME in shown(answer):
                leaks.append((command, answer))

    assert leaks == []
    assert len(commands) >= LEAST
    assert sent > 10 * LEAST
    assert await everything_of(valkey) == before


@pytest.mark.behaviour("T-V2")
@pytest.mark.parametrize("foreign", FOREIGN)
async def test_no_trick_leads_around_the_patterns(valkey: CacheServer, foreign: str) -> None:
    before, stranger = await everything_of(valkey), attacker(valkey)
    for trick in TRICKS:
        command = trick.replace("{f}", foreign).replace("{o}", OWN).split("|")
        answer = shown(await stranger.says(command))
        assert VALUE not in answer, trick
        assert NAME not in answer, trick

    assert await everything_of(valkey) == before


@pytest.mark.behaviour("T-V2")
async def test_the_same_said_by_who_may_shows_the_markers(valkey: CacheServer) -> None:
    """Or the tests above would see nothing, whatever leaked."""
    root = Attacker(valkey, Login(user=SUPERUSER, password=SUPERUSER))
    values = [
        await root.says(command)
        for command in (
            ("GET", FOREIGN[0]),
            ("LRANGE", FOREIGN[1], 0, -1),
            ("HGETALL", FOREIGN[2]),
            ("SMEMBERS", FOREIGN[3]),
            ("ZRANGE", FOREIGN[4], 0, -1),
            ("XRANGE", FOREIGN[5], "-", "+"),
            ("EVAL", "return server.call('GET', KEYS[1])", 1, FOREIGN[0]),
        )
    ]
    names = [await root.says(command) for command in (("KEYS", "*"), ("SCAN", "0", "COUNT", 1000))]

    assert all(VALUE in shown(answer) for answer in values)
    assert all(NAME in shown(answer) for answer in names)


@pytest.mark.behaviour("T-V2")
async def test_a_tenants_own_keys_are_its_own(valkey: CacheServer) -> None:
    own = attacker(valkey)

    assert await own.says(("SET", OWN, "x")) == b"OK"
    assert await own.says(("GET", OWN)) == b"x"
    assert await own.says(("DEL", OWN)) == 1
