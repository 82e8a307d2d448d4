"""The agent as it is run: with certificates, and with what the real Envoy thinks of what it would be told."""

import asyncio
import json
import sys
from asyncio.subprocess import PIPE
from pathlib import Path

import grpc
import pytest

from ext_authz.settings import EdgeSettings
from tests.fixtures.authority import Identity, new_authority
from tests.fixtures.edge_policies import FEED, change, policy
from tests.fixtures.eventually import eventually
from tests.fixtures.policy_server import serving
from tests.integration.ext_authz.agent.edge_dir import edge_control_plane, running, write_edge_dir

PROGRAM = (sys.executable, "-P", "-m", "ext_authz", "agent", "--dir")


def write_certificates(settings: EdgeSettings) -> grpc.ServerCredentials:
    """Write all that the agent reads; return what its control plane shows."""
    issue, authority = new_authority()
    settings.ca_file.write_bytes(authority)
    settings.client_ca_file.write_bytes(authority)
    pairs = {
        "spiffe://bulkhead/edge/edge-1": (settings.certificate, settings.key),
        "spiffe://bulkhead/service/edge": (settings.upstream_certificate, settings.upstream_key),
        "": (settings.server_certificate, settings.server_key),
    }
    for spiffe, paths in pairs.items():
        write_pair(issue(spiffe), *paths)
    own = issue("spiffe://bulkhead/service/control-plane")
    return grpc.ssl_server_credentials([(own.key, own.certificate)], authority, require_client_auth=True)


def write_pair(identity: Identity, certificate: Path, key: Path) -> None:
    key.touch(mode=0o600)
    certificate.write_bytes(identity.certificate)
    key.write_bytes(identity.key)


async def ask(*arguments: str) -> tuple[int | None, str, str]:
    """Run a command of the edge to its end."""
    process = await asyncio.create_subprocess_exec(
        sys.executable, "-P", "-m", "ext_authz", *arguments, stdout=PIPE, stderr=PIPE
    )
    out, err = await process.communicate()
    return process.returncode, out.decode(), err.decode()


async def test_the_agent_starts_follows_and_tells_what_it_knows(folder: Path) -> None:
    server = edge_control_plane()
    credentials = write_certificates(write_edge_dir(folder, control_plane="127.0.0.1:1"))
    async with (
        serving(server, credentials=credentials) as address,
        running(folder, control_plane=address, program=PROGRAM) as agent,
    ):
        await agent.healthy()
        server.take(change(policy(3, revision=6), revision=6))
        await eventually(lambda: server.applied == (FEED, 6))
        second = await ask("agent", "--dir", str(folder))
        bootstrap = json.loads((agent.settings.edge_dir / "bootstrap.json").read_text())

        assert second[0] == 1
        assert "another agent runs" in second[2]
        assert bootstrap["node"]["id"] == "edge-1-envoy"

    rendered = await ask("render", "--dir", str(folder), "--tenant", "org_2", "--json")

    assert rendered[0] == 0
    assert json.loads(rendered[1])["tenant"] == "org_2"


async def test_a_state_directory_that_is_none_is_told_with_what_to_do(folder: Path) -> None:
    code, _, told = await ask("agent", "--dir", str(folder))

    assert code == 2
    assert "up` writes it" in told


async def test_certificates_that_are_none_are_told_before_envoy_sees_them(folder: Path) -> None:
    settings = write_edge_dir(folder, control_plane="127.0.0.1:1")
    write_certificates(settings)
    settings.server_certificate.write_text("none")
    code, _, told = await ask("agent", "--dir", str(folder))

    assert code == 1
    assert "Envoy cannot be told what to do" in told


@pytest.mark.parametrize("module", ["envoy_data_plane", "betterproto2"])
async def test_a_worker_does_not_load_envoys_messages(module: str) -> None:
    script = f"import sys, ext_authz.worker, ext_authz.authz.servicer; print({module!r} in sys.modules)"
    process = await asyncio.create_subprocess_exec(sys.executable, "-P", "-c", script, stdout=PIPE)
    out, _ = await process.communicate()

    assert out == b"False\n"
