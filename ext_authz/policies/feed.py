"""A follower's side of PolicyService: of the control plane's in an agent, of the agent's in a worker.

The stream is opened anew whenever it breaks, falls silent or says what cannot be true. Each time over a new channel,
which reads its certificates anew, and whose pauses are ours: gRPC's own grow to two minutes.
"""

import asyncio
import random
from collections.abc import Awaitable, Callable
from datetime import timedelta
from pathlib import Path
from typing import Any, Final, TypeAlias, TypeVar

import grpc
import structlog

from bulkhead.edge.v1 import policies_pb2, policies_pb2_grpc
from ext_authz.policies.messages import MalformedError, Parts
from ext_authz.policies.model import Change, Index

FOLLOWER: Final = "follower"
"""The metadata under which a follower says its name."""

_SHORTEST_PAUSE_S: Final = 0.05
_LONGEST_PAUSE_S: Final = 2.0
# A server speaks once a second. One that is silent for longer is frozen, or the way to it is cut.
_SILENCE: Final = timedelta(seconds=5)
# Before its first word it may have a hundred thousand policies to read.
_FIRST_SILENCE: Final = timedelta(seconds=15)
_CALL_TIMEOUT_S: Final = 2.0
_OPTIONS: Final = (
    ("grpc.enable_http_proxy", 0),
    # A channel closed must not hand its broken connection, or its pauses, to the next one.
    ("grpc.use_local_subchannel_pool", 1),
    ("grpc.max_receive_message_length", 64 << 20),
    ("grpc.max_reconnect_backoff_ms", 1000),
    ("grpc.keepalive_time_ms", 10_000),
    ("grpc.keepalive_timeout_ms", 5_000),
)

OpenChannel: TypeAlias = Callable[[], grpc.aio.Channel]
_Stub: TypeAlias = "policies_pb2_grpc.PolicyServiceAsyncStub"  # only the stubs know it
T = TypeVar("T")

_log: Final = structlog.get_logger("feed")


class AwayError(Exception):
    """The server cannot be reached, or did not take what it was told."""


class RefusedError(Exception):
    """What will be refused again however often it is tried: a change that leads backwards, a call that is malformed."""


class Feed:
    """Follows one server, and tells it what is applied and what was decided."""

    def __init__(self, open_channel: OpenChannel, *, name: str, silence: timedelta = _SILENCE) -> None:
        """Follow as `name`, and give a server up that has said nothing for `silence`."""
        self._open_channel = open_channel
        self._name = name
        self._silence = silence
        self._stub: _Stub | None = None

    async def follow(self, held: Callable[[], Index], take: Callable[[Change], Any]) -> None:
        """Hand each change to `take` that the index which is `held` does not refuse, until cancelled.

        A sign of life is an empty change.
        """
        attempts = 0
        reason = ""
        while True:
            told = _Counted(take)
            try:
                await self._follow(held, told)
            except (AwayError, MalformedError, RefusedError, OSError) as error:
                # The same cause is told once, not with each attempt.
                if told.times or str(error) != reason:
                    _log.warning("feed_lost", follower=self._name, reason=str(error))
                reason = str(error)
            attempts = 1 if told.times else attempts + 1
            longest = min(_LONGEST_PAUSE_S, _SHORTEST_PAUSE_S * 2 ** min(attempts, 10))
            await asyncio.sleep(random.uniform(_SHORTEST_PAUSE_S, longest))  # noqa: S311 nothing secret

    async def acknowledge(self, request: policies_pb2.AcknowledgePoliciesRequest) -> None:
        """Say what is applied.

        Raises:
            AwayError: when the server did not hear it.
            RefusedError: when it will not hear it.
        """
        stub = self._connected()
        await _answered(stub.AcknowledgePolicies(request, timeout=_CALL_TIMEOUT_S))

    async def report(self, request: policies_pb2.ReportDecisionsRequest) -> None:
        """Hand in a report. It may be handed in again.

        Raises:
            AwayError: when it is not known whether it was counted.
            RefusedError: when it never will be.
        """
        stub = self._connected()
        await _answered(stub.ReportDecisions(request, timeout=_CALL_TIMEOUT_S))

    def _connected(self) -> _Stub:
        if self._stub is None:
            raise AwayError("the stream of policies is not open")
        return self._stub

    async def _follow(self, held: Callable[[], Index], take: Callable[[Change], Any]) -> None:
        async with self._open_channel() as channel:
            stub: _Stub = policies_pb2_grpc.PolicyServiceStub(channel)
            request = policies_pb2.FollowPoliciesRequest(feed=held().feed, revision=held().revision)
            stream = stub.FollowPolicies(request, metadata=((FOLLOWER, self._name),))
            try:
                await self._read(stream, held, take=take, opened=stub)
            finally:
                self._stub = None
                stream.cancel()

    async def _read(
        self, stream: Any, held: Callable[[], Index], *, take: Callable[[Change], Any], opened: _Stub
    ) -> None:
        parts = Parts()
        patience = _FIRST_SILENCE
        while True:
            message = await _answered(stream.read(), within=patience)
            if message is grpc.aio.EOF:
                raise AwayError("the server has ended the stream")
            if self._stub is None:
                self._stub = opened
                _log.info("feed_followed", follower=self._name, feed=message.feed)
            patience = self._silence
            change = parts.add(message)
            if change is None:
                # Reading a part takes a while; so others have their turn.
                await asyncio.sleep(0)
                continue
            if refusal := held().refusal(change):
                raise RefusedError(f"a change was refused: {refusal}")
            take(change)


class _Counted:
    def __init__(self, take: Callable[[Change], Any]) -> None:
        self._take = take
        self.times = 0

    def __call__(self, change: Change) -> None:
        self._take(change)
        self.times += 1


def secure_channel(address: str, *, authority: Path, certificate: Path, key: Path) -> grpc.aio.Channel:
    """Open a channel to a service of the cell. Its certificate is good for `localhost`, wherever it listens.

    Raises:
        OSError: when a file cannot be read.
    """
    credentials = grpc.ssl_channel_credentials(authority.read_bytes(), key.read_bytes(), certificate.read_bytes())
    options = (*_OPTIONS, ("grpc.ssl_target_name_override", "localhost"))
    return grpc.aio.secure_channel(address, credentials, options=options)


def socket_channel(path: Path) -> grpc.aio.Channel:
    """Open a channel to a unix socket."""
    # Else the path, escaped, would be the authority, which servers may refuse.
    options = (*_OPTIONS, ("grpc.default_authority", "localhost"))
    return grpc.aio.insecure_channel(f"unix:{path}", options=options)


async def _answered(call: Awaitable[T], *, within: timedelta | None = None) -> T:
    """Await what a server says; whatever goes wrong is an AwayError, or a RefusedError where that is certain."""
    try:
        async with asyncio.timeout(within.total_seconds() if within else None):
            return await call
    except grpc.aio.AioRpcError as error:
        kind = RefusedError if error.code() is grpc.StatusCode.INVALID_ARGUMENT else AwayError
        raise kind(f"{error.code().name}: {error.details()}") from None
    except TimeoutError:
        raise AwayError("the server is silent") from None
    except asyncio.CancelledError:
        # gRPC raises this also where the channel was closed under a call; then nobody has cancelled the caller.
        task = asyncio.current_task()
        if task is None or task.cancelling():
            raise
        raise AwayError("the channel was closed") from None
