"""An API over TLS whose answers a test chooses, and the command line in front of it.

What a real stack would answer is proven in tests/e2e; here are the answers that a sound stack seldom gives.
"""

import json
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from ipaddress import IPv4Address
from pathlib import Path
from typing import Any, NoReturn

import grpc
import pytest
from cryptography import x509
from cryptography.hazmat.primitives import hashes, serialization
from cryptography.hazmat.primitives.asymmetric import ec
from cryptography.x509.oid import NameOID
from google.longrunning import operations_pb2
from google.protobuf import descriptor_pool, message_factory
from google.protobuf.message import Message
from structlog.testing import capture_logs
from typing_extensions import override

from bulkhead.v1 import audit_pb2, certificates_pb2, edges_pb2, secrets_pb2, tenants_pb2, tokens_pb2
from control_plane.cli.program import run
from control_plane.serving.status import to_status

REQUEST_ID = "0192f0c1d2e3"
Answer = Callable[[Any], Message]
# Their import registers the services that the handler looks up.
_LOADED = (audit_pb2, certificates_pb2, edges_pb2, secrets_pb2, tenants_pb2, tokens_pb2, operations_pb2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Received:
    """One call, as it came in."""

    method: str
    request: Any
    headers: dict[str, str]


class Api(grpc.GenericRpcHandler):
    """Answers each method by the function that a test gave; a raised error becomes the platform's status for it."""

    def __init__(self) -> None:
        self.answers: dict[str, Answer] = {}
        self.received: list[Received] = []

    def answer(self, method: str, answer: Message | Exception | Answer) -> None:
        """Give this answer to every call of the method."""

        def give(request: Any) -> Message:
            if isinstance(answer, Exception):
                raise answer
            return answer if isinstance(answer, Message) else answer(request)

        self.answers[method] = give

    @override
    def service(self, handler_call_details: grpc.HandlerCallDetails) -> Any:
        method = handler_call_details.method
        name = method.rpartition("/")[2]
        if name not in self.answers:
            return None
        descriptor = descriptor_pool.Default().FindMethodByName(method.strip("/").replace("/", "."))

        def serve(request: Any, context: grpc.ServicerContext) -> Message:
            headers = {key: str(value) for key, value in context.invocation_metadata()}
            self.received.append(Received(method=name, request=request, headers=headers))
            try:
                return self.answers[name](request)
            except Exception as error:  # noqa: BLE001 as the platform does
                _abort(context, error)

        return grpc.unary_unary_rpc_method_handler(
            serve,
            message_factory.GetMessageClass(descriptor.input_type).FromString,
            lambda message: message.SerializeToString(),
        )


def _abort(context: grpc.ServicerContext, error: Exception) -> NoReturn:
    with capture_logs():
        status = to_status(error, REQUEST_ID)
    code = next(code for code in grpc.StatusCode if code.value[0] == status.code)
    context.set_trailing_metadata(
        (
            ("x-request-id", REQUEST_ID),
            ("grpc-status-details-bin", status.SerializeToString()),
        )
    )
    context.abort(code, status.message)


@dataclass(frozen=True, slots=True, kw_only=True)
class Ran:
    """What a command left behind."""

    code: int
    out: str
    err: str

    @property
    def json(self) -> Any:
        return json.loads(self.out)

    @property
    def error(self) -> dict[str, Any]:
        error: dict[str, Any] = json.loads(self.err)["error"]
        return error


@dataclass(frozen=True, slots=True)
class Cli:
    """Runs `bulkhead` in this process."""

    state_dir: Path
    capture: pytest.CaptureFixture[str]
    environment: pytest.MonkeyPatch = field(repr=False)

    def __call__(self, *arguments: str) -> Ran:
        code = run(["--dir", str(self.state_dir), *arguments])
        captured = self.capture.readouterr()
        return Ran(code=code, out=captured.out, err=captured.err)

    @property
    def endpoints(self) -> dict[str, str]:
        found: dict[str, str] = json.loads((self.state_dir / "endpoints.json").read_text())
        return found

    def find_at(self, address: str) -> None:
        """Have commands look for the control plane at `host:port`."""
        (self.state_dir / "endpoints.json").write_text(json.dumps(self.endpoints | {"admin_grpc": address}))


@pytest.fixture(scope="session")
def server_identity() -> tuple[bytes, bytes]:
    """Make a key, and a certificate for 127.0.0.1 that vouches for itself; both PEM."""
    key = ec.generate_private_key(ec.SECP256R1())
    name = x509.Name([x509.NameAttribute(NameOID.COMMON_NAME, "api")])
    now = datetime.now(UTC)
    certificate = (
        x509.CertificateBuilder(name, name, key.public_key(), x509.random_serial_number(), now, now + timedelta(days=1))
        .add_extension(x509.SubjectAlternativeName([x509.IPAddress(IPv4Address("127.0.0.1"))]), critical=False)
        .add_extension(x509.BasicConstraints(ca=True, path_length=None), critical=True)
        .sign(key, hashes.SHA256())
    )
    pem = key.private_bytes(serialization.Encoding.PEM, serialization.PrivateFormat.PKCS8, serialization.NoEncryption())
    return pem, certificate.public_bytes(serialization.Encoding.PEM)


@pytest.fixture
def api() -> Api:
    return Api()


@pytest.fixture
def cli(
    api: Api,
    server_identity: tuple[bytes, bytes],
    *,
    tmp_path: Path,
    capsys: pytest.CaptureFixture[str],
    monkeypatch: pytest.MonkeyPatch,
) -> Iterator[Cli]:
    server = grpc.server(ThreadPoolExecutor(4))
    server.add_generic_rpc_handlers((api,))
    port = server.add_secure_port("127.0.0.1:0", grpc.ssl_server_credentials([server_identity]))
    server.start()
    for name in ("BULKHEAD_DIR", "BULKHEAD_TOKEN_FILE"):
        monkeypatch.delenv(name, raising=False)
    state_dir = tmp_path / "state"
    state_dir.mkdir()
    (state_dir / "ca.pem").write_bytes(server_identity[1])
    (state_dir / "admin.token").write_text("the-admin\n")
    (state_dir / "endpoints.json").write_text(
        json.dumps(
            {
                "admin_grpc": f"127.0.0.1:{port}",
                "certificates_grpc": f"127.0.0.1:{port}",
                "ca_file": "ca.pem",
                "admin_token_file": str(state_dir / "admin.token"),
            }
        )
    )
    yield Cli(state_dir, capsys, monkeypatch)
    server.stop(None).wait()
