"""Delta discovery over one aggregated stream, on the wire. Nothing else of Envoy's protocol is served."""

import asyncio
from collections.abc import AsyncIterator
from typing import Final

import grpc
import structlog

from bulkhead.envoy.v3 import discovery_pb2
from ext_authz.xds.hub import Hub
from ext_authz.xds.stream import Stream

SERVICE: Final = "envoy.service.discovery.v3.AggregatedDiscoveryService"
# An Envoy that reconnects names everything that it has: 50 bytes a scope. What it is sent comes in small responses.
SERVER_OPTIONS: Final = (("grpc.max_receive_message_length", 64 * 1024 * 1024), ("grpc.max_send_message_length", -1))

_log: Final = structlog.get_logger("xds")

_Requests = AsyncIterator[discovery_pb2.DeltaDiscoveryRequest]
_Context = grpc.aio.ServicerContext[discovery_pb2.DeltaDiscoveryRequest, discovery_pb2.DeltaDiscoveryResponse]


class AdsServicer:
    """Serves Envoys. The server is to be made with `SERVER_OPTIONS`, and to listen where nobody but Envoy can speak."""

    def __init__(self, hub: Hub) -> None:
        """Serve what the hub holds."""
        self._hub = hub

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve on this server. Anything but delta discovery is answered with UNIMPLEMENTED."""
        handler = grpc.stream_stream_rpc_method_handler(
            self.DeltaAggregatedResources,
            request_deserializer=discovery_pb2.DeltaDiscoveryRequest.FromString,
            response_serializer=discovery_pb2.DeltaDiscoveryResponse.SerializeToString,
        )
        server.add_generic_rpc_handlers(
            (grpc.method_handlers_generic_handler(SERVICE, {"DeltaAggregatedResources": handler}),)
        )

    async def DeltaAggregatedResources(self, requests: _Requests, context: _Context) -> None:
        """Tell an Envoy what it asks for until it goes."""
        with self._hub.connect() as stream:
            listening = asyncio.create_task(self._listen(requests, stream))
            try:
                while not listening.done():
                    for response in stream.turns():
                        if response is None:
                            self._hub.note_answer()
                            await asyncio.sleep(0)
                        else:
                            # Returns when there is room for it: a slow Envoy slows its own stream.
                            await context.write(response)
                    self._hub.note_answer()
                    await stream.woken()
                listening.result()
            finally:
                listening.cancel()
                _log.info("envoy_gone", node=stream.node)

    async def _listen(self, requests: _Requests, stream: Stream) -> None:
        try:
            async for request in requests:
                if not stream.node:
                    _log.info("envoy_connected", node=request.node.id)
                stream.receive(request)
                self._hub.note_answer()
        finally:
            stream.wake()
