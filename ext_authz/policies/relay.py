"""PolicyService as an agent serves it to its workers, on a unix socket.

What a worker has acknowledged is known by its name, from its first stream to the end of its process: one that has lost
its stream may still decide, by what it has.
"""

import asyncio
from collections.abc import AsyncIterator, Callable
from contextlib import suppress
from dataclasses import dataclass
from typing import Any, Final, TypeAlias

import grpc

from bulkhead.edge.v1 import policies_pb2
from ext_authz.policies.feed import FOLLOWER
from ext_authz.policies.ledger import Ledger
from ext_authz.policies.model import Index

_EVERY_S: Final = 1.0
_SERVICE: Final = policies_pb2.DESCRIPTOR.services_by_name["PolicyService"].full_name
_Context: TypeAlias = "grpc.aio.ServicerContext[Any, Any]"


@dataclass(slots=True, eq=False)
class _Worker:
    """One that has followed, and whose process has not ended."""

    feed: str = ""
    revision: int = 0

    def has_applied(self, index: Index) -> bool:
        return self.feed == index.feed and self.revision >= index.revision


class Relay:
    """Serves a ledger to workers, and knows how far each is."""

    def __init__(self, ledger: Ledger, *, report: Callable[[policies_pb2.ReportDecisionsRequest], None]) -> None:
        """Hand what workers report to `report`."""
        self._ledger = ledger
        self._report = report
        self._workers: dict[str, _Worker] = {}
        self._heard: dict[str, int] = {}
        self._moved = asyncio.Event()

    def heard(self, name: str) -> int:
        """Tell how often the worker of that name, and whoever had it before, has acknowledged anything."""
        return self._heard.get(name, 0)

    def forget(self, name: str) -> None:
        """Wait for that worker no more: its process has ended."""
        self._workers.pop(name, None)
        self._move()

    def lagging(self, index: Index) -> list[str]:
        """Name the workers that have not applied the index, or what came after it."""
        newest = self._ledger.index
        # Revisions of two feeds cannot be compared; what is held now replaces all that the other one had.
        wanted = index if index.feed == newest.feed else newest
        return [name for name, worker in self._workers.items() if not worker.has_applied(wanted)]

    def ready(self, index: Index) -> int:
        """Count the workers that have applied the index."""
        return sum(1 for worker in self._workers.values() if worker.has_applied(index))

    async def applied(self, index: Index) -> None:
        """Return when every worker has applied the index, or a later one of its feed."""
        while self.lagging(index):
            await self._moved.wait()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve the workers on that server."""
        handlers: dict[str, grpc.RpcMethodHandler[Any, Any]] = {
            # What is sent is encoded already.
            "FollowPolicies": grpc.unary_stream_rpc_method_handler(
                self._follow, request_deserializer=policies_pb2.FollowPoliciesRequest.FromString
            ),
            "AcknowledgePolicies": grpc.unary_unary_rpc_method_handler(
                self._acknowledge,
                request_deserializer=policies_pb2.AcknowledgePoliciesRequest.FromString,
                response_serializer=policies_pb2.AcknowledgePoliciesResponse.SerializeToString,
            ),
            "ReportDecisions": grpc.unary_unary_rpc_method_handler(
                self._take_report,
                request_deserializer=policies_pb2.ReportDecisionsRequest.FromString,
                response_serializer=policies_pb2.ReportDecisionsResponse.SerializeToString,
            ),
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))

    async def _follow(self, request: policies_pb2.FollowPoliciesRequest, context: _Context) -> AsyncIterator[bytes]:
        name = str(dict(context.invocation_metadata() or ()).get(FOLLOWER, ""))
        if not name:
            await context.abort(grpc.StatusCode.INVALID_ARGUMENT, f"a follower says its name as `{FOLLOWER}`")
        self._workers.setdefault(name, _Worker())
        async for message in self._messages(request):
            yield message

    async def _messages(self, request: policies_pb2.FollowPoliciesRequest) -> AsyncIterator[bytes]:
        position = self._ledger.position_of(request.feed, request.revision)
        while True:
            news = self._ledger.news
            messages = self._ledger.since(position)
            position = self._ledger.position
            for message in messages:
                yield message
            with suppress(TimeoutError):
                async with asyncio.timeout(_EVERY_S):
                    await news.wait()

    async def _acknowledge(
        self, request: policies_pb2.AcknowledgePoliciesRequest, _: _Context
    ) -> policies_pb2.AcknowledgePoliciesResponse:
        self._heard[request.agent] = self.heard(request.agent) + 1
        if worker := self._workers.get(request.agent):
            worker.feed, worker.revision = request.feed, request.revision
            self._move()
        return policies_pb2.AcknowledgePoliciesResponse()

    async def _take_report(
        self, request: policies_pb2.ReportDecisionsRequest, _: _Context
    ) -> policies_pb2.ReportDecisionsResponse:
        self._report(request)
        return policies_pb2.ReportDecisionsResponse()

    def _move(self) -> None:
        self._moved.set()
        self._moved = asyncio.Event()
