"""What the agent is told at its start: the part `edge` of `config.json` in the state directory.

Relative paths are relative to the state directory.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from control_plane.config_file import read_config


@dataclass(frozen=True, slots=True, kw_only=True)
class EdgeSettings:
    """The settings of one agent, its workers and its Envoy."""

    state_dir: Path
    name: str
    """The agent's name, as in its certificate's `spiffe://bulkhead/edge/{name}`."""
    control_plane: str
    """`host:port` where the control plane serves with client certificates."""
    ca_file: Path
    """The internal authority, PEM."""
    certificate: Path
    """The agent's certificate towards the control plane, PEM."""
    key: Path
    upstream: str
    """`host:port` where the certificate service serves with client certificates."""
    upstream_certificate: Path
    """Envoy's certificate towards the services behind it, `spiffe://bulkhead/service/edge`, PEM."""
    upstream_key: Path
    http_listen: str
    """`host:port` for plain HTTP."""
    https_listen: str
    """`host:port` for TLS."""
    admin_listen: str
    """`host:port` of Envoy's administration."""
    server_certificate: Path
    """What Envoy shows to tenants, PEM; reloaded when the file changes."""
    server_key: Path
    client_ca_file: Path
    """What tenants' client certificates must come from, PEM; reloaded when the file changes."""
    domain: str
    """The platform's domain: tenants are `{dns_label}.{domain}`."""
    shared_hosts: tuple[str, ...]
    """Hosts that belong to no tenant; the first is the platform's own, `api.{domain}`."""
    workers: int
    """How many processes answer Envoy's Checks."""
    sockets_dir: Path
    """The directory of the agent's unix sockets; short."""
    edge_dir: Path
    """Where the agent keeps what it must not lose."""
    valkey_socket: Path
    valkey_key: Path
    """What the edge's password at Valkey is derived from; no other one is."""
    context_key: Path
    """The key of signed contexts."""
    copy_key: Path
    """The key that signs the last-good copy."""

    @property
    def node(self) -> str:
        """What its Envoy calls itself."""
        return f"{self.name}-envoy"

    @property
    def xds_socket(self) -> Path:
        """Where the agent serves xDS to Envoy."""
        return self.sockets_dir / "xds.sock"

    @property
    def relay_socket(self) -> Path:
        """Where the agent serves policies to its workers."""
        return self.sockets_dir / "policies.sock"

    @property
    def lease_log(self) -> Path:
        """Where Envoy writes what it has let by without the agent."""
        return self.edge_dir / "leases.log"

    def check_socket(self, worker: int) -> Path:
        """Where that worker answers Envoy's Checks; workers count from 0."""
        return self.sockets_dir / f"check-{worker}.sock"

    @classmethod
    def from_dir(cls, state_dir: Path) -> "EdgeSettings":
        """Read `config.json` of the state directory.

        Raises:
            SettingsError: when it is absent or lacks something.
        """
        return read_config(state_dir, _settings)


def _settings(state_dir: Path, config: Mapping[str, Any]) -> EdgeSettings:
    edge = config["edge"]
    secrets = state_dir / config["secrets_dir"]
    return EdgeSettings(
        state_dir=state_dir,
        name=edge["name"],
        control_plane=config["control_plane"]["internal_listen"],
        ca_file=state_dir / config["ca_file"],
        certificate=state_dir / edge["certificate"],
        key=state_dir / edge["key"],
        upstream=config["certificates"]["internal_listen"],
        upstream_certificate=state_dir / edge["upstream_certificate"],
        upstream_key=state_dir / edge["upstream_key"],
        http_listen=edge["http_listen"],
        https_listen=edge["https_listen"],
        admin_listen=edge["admin_listen"],
        server_certificate=state_dir / edge["server_certificate"],
        server_key=state_dir / edge["server_key"],
        client_ca_file=state_dir / edge["client_ca_file"],
        domain=edge["domain"],
        shared_hosts=tuple(edge["shared_hosts"]),
        workers=int(edge["workers"]),
        sockets_dir=state_dir / edge["sockets_dir"],
        edge_dir=state_dir / edge["edge_dir"],
        valkey_socket=state_dir / config["valkey"]["socket"],
        valkey_key=secrets / "valkey-edge.key",
        context_key=secrets / "context.key",
        copy_key=secrets / "edge-copy.key",
    )
