"""Where the stack listens, and the files that say so: `config.json` to its processes, `endpoints.json` to the world."""

import socket
from collections.abc import Mapping
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, Final, Self

from control_plane.config_file import CONFIG_FILE
from control_plane.settings import SOFTWARE
from control_plane.stack.authority import CERTIFICATE
from control_plane.stack.edge import settings as edge
from control_plane.stack.edge.identities import PLATFORM_HOST
from control_plane.stack.failures import StackError, StateDirectoryError
from control_plane.stack.layout import StateDir, read_json, write_json
from control_plane.stack.postgres import DATABASE, Postgres
from control_plane.stack.processes.size import StackSize

_HOST: Final = "127.0.0.1"
_DEFAULT_PORTS: Final = {
    ("control_plane", "listen"): 7443,
    ("control_plane", "internal_listen"): 7444,
    ("certificates", "listen"): 7445,
    ("certificates", "internal_listen"): 7446,
    ("edge", "https_listen"): 7447,
    ("edge", "http_listen"): 7448,
    ("edge", "admin_listen"): 7449,
}
# The next candidates; below the range from which the kernel lends ports to outgoing connections.
_STEP: Final = 10
_HIGHEST: Final = 32_000
_SERVICES: Final = {
    "control-plane": ["audit.read", "certificates.read", "certificates.write"],
    "certificates": ["certificates.read", "certificates.write"],
    edge.SERVICE: list(edge.SCOPES),
}


@dataclass(frozen=True, slots=True, kw_only=True)
class Addresses:
    """Host and port of every listener, and the claim to these ports for as long as they are in use."""

    admin: str
    """The control plane, for bearer tokens."""
    control_plane_internal: str
    """The control plane, for client certificates."""
    certificates: str
    """The certificate service, for bearer tokens."""
    certificates_internal: str
    """The certificate service, for client certificates."""
    edge_https: str
    """Envoy, for tenants' requests over TLS."""
    edge_http: str
    """Envoy, for tenants' requests in the clear."""
    envoy_admin: str
    """Envoy's administration."""
    claims: tuple[socket.socket, ...]
    """What keeps other stacks off the ports, also while a process is away."""

    @classmethod
    def choose(cls, state_dir: StateDir) -> Self:
        """Take the ports of this directory's last run where they are free, else the defaults, else free ones."""
        last = read_json(state_dir.root / CONFIG_FILE)
        chosen, claims = {}, []
        for (process, listener), default in _DEFAULT_PORTS.items():
            port, claim = _claim_port(_port_of(last, process, listener=listener), default)
            chosen[process, listener] = f"{_HOST}:{port}"
            claims.append(claim)
        return cls(
            claims=tuple(claims),
            admin=chosen["control_plane", "listen"],
            control_plane_internal=chosen["control_plane", "internal_listen"],
            certificates=chosen["certificates", "listen"],
            certificates_internal=chosen["certificates", "internal_listen"],
            edge_https=chosen["edge", "https_listen"],
            edge_http=chosen["edge", "http_listen"],
            envoy_admin=chosen["edge", "admin_listen"],
        )

    def release(self) -> None:
        """Leave the ports to others."""
        for claim in self.claims:
            claim.close()

    def are_free(self) -> bool:
        """Whether nobody listens on any of them."""
        services = (self.admin, self.control_plane_internal, self.certificates, self.certificates_internal)
        each = (*services, self.edge_https, self.edge_http, self.envoy_admin)
        return all(_is_free(int(address.rpartition(":")[2])) for address in each)


def write_config(
    state_dir: StateDir, addresses: Addresses, *, postgres: Postgres, valkey_socket: Path, size: StackSize
) -> None:
    """Write what the stack's processes read at their start.

    `control_plane.settings` says what each part means, and `ext_authz.settings` what the edge's does.

    Raises:
        StateDirectoryError: another kind of vault is asked for than there is.
    """
    last = read_json(state_dir.root / CONFIG_FILE)
    config = {
        "postgres": {
            "socket_dir": str(postgres.socket_dir),
            "port": postgres.port,
            "dbname": DATABASE,
            "tenant_connections": size.connections_by_process,
        },
        "valkey": {"socket": str(valkey_socket)},
        "control_plane": {
            "listen": addresses.admin,
            "internal_listen": addresses.control_plane_internal,
            "certificate": "ca/control-plane.pem",
            "key": "ca/control-plane.key",
        },
        "certificates": {
            "listen": addresses.certificates,
            "internal_listen": addresses.certificates_internal,
            "certificate": "ca/certificates.pem",
            "key": "ca/certificates.key",
        },
        "ca_file": f"ca/{CERTIFICATE}",
        "admin_token_file": state_dir.admin_token.name,
        "secrets_dir": "secrets",
        "vault_dir": "vault",
        "vault": _vault(last, size.vault),
        # The operator's, who may have put a bucket there.
        "objects": last.get("objects", "objects"),
        "restricts_unsafe": size.restricts_unsafe,
        "services": _SERVICES,
        "edge": edge.edge_settings(
            size,
            sockets=postgres.socket_dir,
            http_listen=addresses.edge_http,
            https_listen=addresses.edge_https,
            admin_listen=addresses.envoy_admin,
        ),
    }
    write_json(state_dir.root / CONFIG_FILE, config)


def endpoints(state_dir: StateDir, addresses: Addresses) -> dict[str, str]:
    """Return what `endpoints.json` says. Scripts rely on the names; all paths are absolute."""
    return {
        "admin_grpc": addresses.admin,
        "certificates_grpc": addresses.certificates,
        "ca_file": str(state_dir.authority / CERTIFICATE),
        "admin_token_file": str(state_dir.admin_token),
        "state_dir": str(state_dir.root),
        "control_plane_internal_grpc": addresses.control_plane_internal,
        "certificates_internal_grpc": addresses.certificates_internal,
        "edge_http": addresses.edge_http,
        "edge_https": addresses.edge_https,
        "edge_authority": PLATFORM_HOST,
        "edge_ca_file": str(state_dir.authority / CERTIFICATE),
        "envoy_admin": addresses.envoy_admin,
    }


def _vault(last: Mapping[str, Any], asked: str | Mapping[str, Any]) -> object:
    """Return what is said of the vault. Its kind is settled by the first `up`: keys do not move to another."""
    if not last:
        return asked or SOFTWARE
    # The operator's, who may have named a device there.
    there = last.get("vault", SOFTWARE)
    kind, wanted = _kind(there), _kind(asked)
    if wanted not in {"", kind}:
        raise StateDirectoryError(
            f"this state directory was made with the vault `{kind}`, and `{wanted}` has none of its keys",
            remedy=f"start it with the vault `{kind}`, or name another directory with --dir",
        )
    return there if isinstance(asked, str) else asked


def _kind(vault: str | Mapping[str, Any]) -> str:
    return vault if isinstance(vault, str) else str(vault["kind"])


def _port_of(config: Mapping[str, Any], process: str, *, listener: str) -> int | None:
    try:
        return int(str(config[process][listener]).rpartition(":")[2])
    except (KeyError, TypeError, ValueError):
        return None


def _claim_port(last: int | None, default: int) -> tuple[int, socket.socket]:
    candidates = [default] if last is None else [last, default]
    for port in chain(candidates, range(default + _STEP, _HIGHEST, _STEP)):
        claim = _claim(port)
        if claim is not None and _is_free(port):
            return port, claim
        if claim is not None:
            claim.close()
    raise StackError(f"no port of {_HOST} is free from {default} on", remedy="stop what listens there")


def _claim(port: int) -> socket.socket | None:
    """Take a name that belongs to the port, among the stacks of this machine. It goes with this process.

    Between the end of a service and its next start its port is free to everybody. Another stack would take it.
    """
    claim = socket.socket(socket.AF_UNIX)
    try:
        # An abstract address: no file, and seen wherever the port is.
        claim.bind(f"\0bulkhead-port-{port}")
    except OSError:
        claim.close()
        return None
    return claim


def _is_free(port: int) -> bool:
    with socket.socket() as probe:
        # As a server does: what an earlier run's closed connections have left behind does not count.
        probe.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
        try:
            probe.bind((_HOST, port))
            probe.listen(1)
        except OSError:
            return False
    return True
