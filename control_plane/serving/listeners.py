"""The gRPC servers of a process: which address, which TLS, which interceptors.

Python's gRPC cannot ask for a client certificate without demanding one. So a process has a listener for bearer tokens,
and beside it one for the client certificates of internal services.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final

import grpc
from grpc_reflection.v1alpha import reflection

from control_plane.serving.interception import Interceptor

# Ample for a signing request or a few labels, and for a field of a megabyte to be refused by name, not as a frame.
_LARGEST_MESSAGE: Final = 4 << 20
_OPTIONS: Final = (
    ("grpc.max_receive_message_length", _LARGEST_MESSAGE),
    ("grpc.max_metadata_size", 16 << 10),
    ("grpc.max_concurrent_streams", 256),
    ("grpc.http2.min_ping_interval_without_data_ms", 10_000),
    ("grpc.keepalive_time_ms", 60_000),
    # Two processes on one port would split the calls between an old one and a new one.
    ("grpc.so_reuseport", 0),
)

AddServicers = Callable[[grpc.aio.Server], None]


@dataclass(frozen=True, slots=True, kw_only=True)
class TlsFiles:
    """The PEM files of one server's TLS."""

    certificate: Path
    """The server's certificate."""
    key: Path
    """Its private key."""
    authority: Path
    """The internal authority, which client certificates must come from."""


def open_listener(
    address: str,
    tls: TlsFiles,
    *,
    interceptors: Sequence[Interceptor],
    add_servicers: AddServicers,
    client_certificates: bool,
    reflected: Sequence[str] = (),
) -> tuple[grpc.aio.Server, int]:
    """Make a server on `address`, not yet started; return it with its port. `reflected` services can be reflected upon.

    Raises:
        RuntimeError: when the address is taken.
    """
    server = grpc.aio.server(interceptors=interceptors, options=_OPTIONS)
    add_servicers(server)
    if reflected:
        reflection.enable_server_reflection((*reflected, reflection.SERVICE_NAME), server)
    credentials = grpc.ssl_server_credentials(
        [(tls.key.read_bytes(), tls.certificate.read_bytes())],
        root_certificates=tls.authority.read_bytes() if client_certificates else None,
        require_client_auth=client_certificates,
    )
    return server, server.add_secure_port(address, credentials)
