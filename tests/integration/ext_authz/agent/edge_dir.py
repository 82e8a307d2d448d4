"""A state directory as an agent and its workers need it, without a stack around it."""

import json
from pathlib import Path

from ext_authz.settings import EdgeSettings
from tests.fixtures.edge_policies import DOMAIN


def write_edge_dir(folder: Path, *, control_plane: str, workers: int = 2) -> EdgeSettings:
    """Write `config.json`; the settings that are read from it have nothing of this process."""
    folder.mkdir(exist_ok=True)
    edge = {
        "name": "edge-1",
        "certificate": "agent.pem",
        "key": "agent.key",
        "upstream_certificate": "upstream.pem",
        "upstream_key": "upstream.key",
        "http_listen": "127.0.0.1:0",
        "https_listen": "127.0.0.1:0",
        "admin_listen": "127.0.0.1:0",
        "server_certificate": "server.pem",
        "server_key": "server.key",
        "client_ca_file": "client-ca.pem",
        "domain": DOMAIN,
        "shared_hosts": ["api.csm.example.com", "localhost", "127.0.0.1"],
        "workers": workers,
        "sockets_dir": "sockets",
        "edge_dir": "edge",
    }
    config = {
        "secrets_dir": "secrets",
        "ca_file": "ca.pem",
        "control_plane": {"internal_listen": control_plane},
        "certificates": {"internal_listen": "127.0.0.1:1"},
        "valkey": {"socket": "valkey.sock"},
        "edge": edge,
    }
    (folder / "config.json").write_text(json.dumps(config))
    return EdgeSettings.from_dir(folder)
