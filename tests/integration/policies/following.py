"""A follower of the policies, as simple as can be."""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import TYPE_CHECKING, Any

import grpc

from bulkhead.edge.v1 import policies_pb2

if TYPE_CHECKING:
    from tests.integration.policies.conftest import Control

NOTHING = policies_pb2.FollowPoliciesRequest()


class Following:
    """Reads a stream of policies, and joins the parts of a change."""

    def __init__(self, call: Any) -> None:
        self._call = call
        self._pending: asyncio.Future[policies_pb2.FollowPoliciesResponse] | None = None
        self.messages: list[policies_pb2.FollowPoliciesResponse] = []

    async def message(self) -> policies_pb2.FollowPoliciesResponse:
        """Wait for one message. Raises what the stream ends with."""
        if self._pending is not None:
            pending, self._pending = self._pending, None
            return await pending
        async with asyncio.timeout(30):
            found: Any = await self._call.read()
        if found is grpc.aio.EOF:
            await self._call
        message: policies_pb2.FollowPoliciesResponse = found
        self.messages.append(message)
        return message

    async def change(self) -> policies_pb2.FollowPoliciesResponse:
        """Return the next change that is more than the time."""
        whole = policies_pb2.FollowPoliciesResponse()
        while True:
            part = await self.message()
            whole.MergeFrom(part)
            if not part.continues and (whole.tenants or whole.purged_tenants or whole.revocations or whole.snapshot):
                return whole

    async def until(self, revision: int) -> list[policies_pb2.TenantPolicy]:
        """Read up to the revision, and return the tenants that came."""
        found: list[policies_pb2.TenantPolicy] = []
        while True:
            message = await self.message()
            found += message.tenants
            if message.revision >= revision and not message.continues:
                return found

    async def end(self) -> grpc.aio.AioRpcError:
        """Read on until the stream ends, and return what it ends with."""
        try:
            while True:
                await self.message()
        except grpc.aio.AioRpcError as error:
            return error

    async def is_silent(self, *, for_s: float) -> bool:
        """Say whether nothing comes; `message` afterwards waits on for what was waited for."""
        reading = asyncio.ensure_future(self.message())
        done, _ = await asyncio.wait([reading], timeout=for_s)
        if not done:
            self._pending = reading
        return not done


@asynccontextmanager
async def following(
    control: "Control", request: policies_pb2.FollowPoliciesRequest = NOTHING, *, edge: str = "edge-1"
) -> AsyncIterator[Following]:
    """Follow from where the request says."""
    async with control.policies(edge) as stub:
        call = stub.FollowPolicies(request)
        yield Following(call)
        call.cancel()
