"""The one place that calls RPCs, and turns what comes back, answer or status, into JSON form."""

import pkgutil
from collections.abc import Callable
from importlib import import_module
from pathlib import Path
from typing import Any, Final

import grpc
from google.protobuf import descriptor_pool, json_format, message_factory
from google.protobuf.message import Message as ProtoMessage
from google.rpc import error_details_pb2
from grpc_status import rpc_status

from bulkhead import v1
from control_plane.cli.calls.endpoints import Endpoints
from control_plane.cli.calls.failures import CallFailedError, Failure, failed, from_status
from control_plane.cli.calls.message import Message

# Their import registers the services, and the types that an operation or a status may carry inside.
_MODULES: Final = (
    *(module.name for module in pkgutil.iter_modules(v1.__path__, "bulkhead.v1.") if module.name.endswith("_pb2")),
    "google.longrunning.operations_pb2",
    error_details_pb2.__name__,
)
_OPTIONS: Final = (
    # A proxy is for the web; what we call is on this machine or in this cell.
    ("grpc.enable_http_proxy", 0),
    # A page of a thousand certificates or entries.
    ("grpc.max_receive_message_length", 64 << 20),
    # Whoever waits for a server that is away looks again soon; gRPC's own pauses grow to two minutes. What it calls
    # the least pause is left alone: it is the most time that a handshake has, too.
    ("grpc.initial_reconnect_backoff_ms", 100),
    ("grpc.max_reconnect_backoff_ms", 1000),
)


class Client:
    """Calls the API over TLS. Channels are opened when needed, and kept until `close`."""

    def __init__(self, endpoints: Endpoints) -> None:
        """Call at `endpoints`."""
        self._endpoints = endpoints
        self._channels: dict[str, grpc.Channel] = {}
        for module in _MODULES:
            import_module(module)

    def call(self, method: str, request: Message, *, token: Callable[[], str] | None, timeout_s: float) -> Message:
        """Call `package.Service/Method`. `token` None calls without a credential.

        Raises:
            CallFailedError: whatever went wrong, the deadline included.
        """
        descriptor = descriptor_pool.Default().FindMethodByName(method.replace("/", "."))
        message = json_format.ParseDict(request, message_factory.GetMessageClass(descriptor.input_type)())
        metadata = (("authorization", f"Bearer {token()}"),) if token else ()
        stub: Any = self._channel(self._endpoints.address(method)).unary_unary(
            f"/{method}",
            request_serializer=_serialize,
            response_deserializer=message_factory.GetMessageClass(descriptor.output_type).FromString,
        )
        try:
            return _json(stub(message, timeout=timeout_s, metadata=metadata))
        except grpc.RpcError as error:
            raise CallFailedError(_failure(error)) from error

    def close(self) -> None:
        """Close the channels."""
        for channel in self._channels.values():
            channel.close()

    def _channel(self, address: str) -> grpc.Channel:
        if address not in self._channels:
            credentials = grpc.ssl_channel_credentials(_authority(self._endpoints.ca_file))
            self._channels[address] = grpc.secure_channel(address, credentials, options=_OPTIONS)
        return self._channels[address]


def _serialize(message: ProtoMessage) -> bytes:
    return message.SerializeToString()


def _authority(path: Path) -> bytes:
    try:
        return path.read_bytes()
    except OSError as error:
        message = f"the authority's certificate {path} cannot be read: {error.strerror}"
        raise failed("UNAVAILABLE", message, hint="`{bulkhead} up` writes it anew") from error


def _failure(error: Any) -> Failure:
    """Read a call's status: with its details if a server gave some, else what gRPC itself says."""
    status = rpc_status.from_call(error)
    if status is not None:
        return from_status(_json(status))
    trailers = {key: value for key, value in error.trailing_metadata() or () if isinstance(value, str)}
    return Failure(
        code=error.code().name, message=error.details() or "", request_id=str(trailers.get("x-request-id", ""))
    )


def _json(message: ProtoMessage) -> Message:
    # With the fields that are at their default: `hsm_backed: false` is an answer, not an absence.
    fields = json_format.MessageToDict(
        message, preserving_proto_field_name=True, always_print_fields_with_no_presence=True
    )
    return {
        name: _ordered(value, _packed_type(value)) if isinstance(value, dict) and "@type" in value else value
        for name, value in _ordered(fields, message.DESCRIPTOR).items()
    }


def _ordered(fields: Message, descriptor: Any) -> Message:
    """Put the fields in the order of the proto; protobuf's own has those at their default last."""
    names = ("@type", *(field.name for field in descriptor.fields))
    return {name: fields[name] for name in names if name in fields}


def _packed_type(value: Message) -> Any:
    return descriptor_pool.Default().FindMessageTypeByName(str(value["@type"]).rpartition("/")[2])
