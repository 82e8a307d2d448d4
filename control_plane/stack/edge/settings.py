"""What the edge is told: the part `edge` of `config.json`, which `ext_authz` reads."""

from collections.abc import Mapping
from pathlib import Path
from typing import Any, Final

from control_plane.stack.edge.identities import AGENT, CLIENTS, DOMAIN, PLATFORM_HOST, SERVER, UPSTREAM
from control_plane.stack.processes.size import StackSize

SERVICE: Final = "edge"
"""What Envoy is to the services behind it."""
SCOPES: Final = ("certificates.read", "certificates.write")
"""What Envoy may do there at most, whoever the caller is."""
# Hosts that belong to no tenant: a request to one of them names its tenant in its path or in a header.
_SHARED_HOSTS: Final = (PLATFORM_HOST, "localhost", "127.0.0.1")


def edge_settings(
    size: StackSize, *, sockets: Path, http_listen: str, https_listen: str, admin_listen: str
) -> Mapping[str, Any]:
    """Return the part `edge`; `ext_authz.settings` says what each entry means."""
    return {
        "name": "local",
        "certificate": f"ca/{AGENT.name}.pem",
        "key": f"ca/{AGENT.name}.key",
        "upstream_certificate": f"ca/{UPSTREAM.name}.pem",
        "upstream_key": f"ca/{UPSTREAM.name}.key",
        "http_listen": http_listen,
        "https_listen": https_listen,
        "admin_listen": admin_listen,
        "server_certificate": f"ca/{SERVER.name}.pem",
        "server_key": f"ca/{SERVER.name}.key",
        "client_ca_file": f"ca/{CLIENTS}.pem",
        "domain": DOMAIN,
        "shared_hosts": list(_SHARED_HOSTS),
        "workers": size.check_workers,
        "proxy_workers": size.proxy_workers,
        "sockets_dir": str(sockets),
        "edge_dir": "edge",
    }
