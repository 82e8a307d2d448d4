"""Which ports a stack takes."""

import json
import socket
from collections.abc import Callable, Iterator, Mapping
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from control_plane.settings import DeviceSettings, Settings
from control_plane.stack.addresses import Addresses, endpoints, write_config
from control_plane.stack.failures import StateDirectoryError
from control_plane.stack.layout import StateDir
from control_plane.stack.postgres import Postgres
from control_plane.stack.processes.size import StackSize
from ext_authz.settings import EdgeSettings


def write(state_dir: StateDir, addresses: Addresses, *, vault: str | Mapping[str, Any] = "") -> Settings:
    postgres = Postgres(data_dir=state_dir.postgres, socket_dir=state_dir.run, log=state_dir.log("postgres"))
    size, valkey = StackSize(vault=vault), state_dir.run / "valkey.sock"
    write_config(state_dir, addresses, postgres=postgres, valkey_socket=valkey, size=size)
    return Settings.from_dir(state_dir.root)


@pytest.fixture
def choose(tmp_path: Path) -> Iterator[Callable[[], Addresses]]:
    """Choose addresses for one state directory; all are given back in the end."""
    chosen = []

    def choose() -> Addresses:
        chosen.append(Addresses.choose(StateDir(tmp_path)))
        return chosen[-1]

    yield choose
    for addresses in chosen:
        addresses.release()


Choose = Callable[[], Addresses]


def test_every_listener_has_a_port_of_its_own(tmp_path: Path, choose: Choose) -> None:
    settings = write(StateDir(tmp_path), choose())
    edge = EdgeSettings.from_dir(tmp_path)
    listeners = [settings.control_plane, settings.certificates]
    services = {address for listener in listeners for address in (listener.listen, listener.internal_listen)}

    assert len(services | {edge.http_listen, edge.https_listen, edge.admin_listen}) == 7


def test_the_edge_is_told_where_the_others_are_and_who_it_is(tmp_path: Path, choose: Choose) -> None:
    settings = write(StateDir(tmp_path), choose())
    edge = EdgeSettings.from_dir(tmp_path)

    assert (edge.control_plane, edge.upstream) == (
        settings.control_plane.internal_listen,
        settings.certificates.internal_listen,
    )
    assert (edge.name, edge.shared_hosts[0]) == ("local", f"api.{edge.domain}")
    assert edge.valkey_socket == settings.valkey_socket
    assert settings.services["edge"] == {"certificates.read", "certificates.write"}


def test_a_directory_keeps_its_ports_while_they_are_free(tmp_path: Path, choose: Choose) -> None:
    first = choose()
    write(StateDir(tmp_path), first)
    first.release()

    assert replace(choose(), claims=()) == replace(first, claims=())


def test_where_the_operator_has_put_the_objects_they_stay(tmp_path: Path, choose: Choose) -> None:
    assert write(StateDir(tmp_path), choose()).objects.location == str(tmp_path / "objects")
    config = tmp_path / "config.json"
    bucket = {"url": "s3://objects", "options": {"region": "local"}}
    config.write_text(json.dumps(json.loads(config.read_text()) | {"objects": bucket}))
    objects = write(StateDir(tmp_path), choose()).objects

    assert (objects.location, objects.options) == ("s3://objects", {"region": "local"})


def test_a_port_that_is_taken_is_left_alone(tmp_path: Path, choose: Choose) -> None:
    first = choose()
    write(StateDir(tmp_path), first)
    first.release()
    host, _, port = first.admin.rpartition(":")
    with socket.create_server((host, int(port))):
        second = choose()

        assert not first.are_free()
    assert second.admin != first.admin
    assert second.certificates == first.certificates


def test_a_port_is_kept_for_its_stack_while_nobody_listens(choose: Choose) -> None:
    first, second = choose(), choose()

    assert first.are_free()
    assert {first.admin, first.certificates} & {second.admin, second.certificates} == set()


def test_nonsense_in_the_last_configuration_is_ignored(tmp_path: Path, choose: Choose) -> None:
    (tmp_path / "config.json").write_text('{"control_plane": {"listen": "nowhere"}, "certificates": 7}')

    assert choose().admin.startswith("127.0.0.1:")


def test_endpoints_have_absolute_paths_and_the_names_that_scripts_rely_on(tmp_path: Path, choose: Choose) -> None:
    told = endpoints(StateDir(tmp_path), choose())

    assert list(told)[:5] == ["admin_grpc", "certificates_grpc", "ca_file", "admin_token_file", "state_dir"]
    assert list(told)[-5:] == ["edge_http", "edge_https", "edge_authority", "edge_ca_file", "envoy_admin"]
    assert told["edge_authority"] == "api.csm.example.com"
    assert all(Path(told[name]).is_absolute() for name in ("ca_file", "admin_token_file", "state_dir", "edge_ca_file"))


@pytest.mark.parametrize("first", ["", "software", "pkcs11"])
def test_the_kind_of_vault_is_settled_by_the_first_start(tmp_path: Path, choose: Choose, first: str) -> None:
    state_dir, addresses = StateDir(tmp_path), choose()
    made = write(state_dir, addresses, vault=first)
    other = {"pkcs11": "software"}.get(first, "pkcs11")

    assert (made.hsm is not None) == (first == "pkcs11")
    assert write(state_dir, addresses).hsm == made.hsm
    with pytest.raises(StateDirectoryError, match="none of its keys"):
        write(state_dir, addresses, vault=other)
    assert write(state_dir, addresses, vault=first).hsm == made.hsm


def test_a_directory_of_an_older_version_has_a_software_vault(tmp_path: Path, choose: Choose) -> None:
    state_dir, addresses = StateDir(tmp_path), choose()
    write(state_dir, addresses)
    config = json.loads((tmp_path / "config.json").read_text())
    del config["vault"]
    (tmp_path / "config.json").write_text(json.dumps(config))

    with pytest.raises(StateDirectoryError):
        write(state_dir, addresses, vault="pkcs11")
    assert write(state_dir, addresses).hsm is None


def test_a_device_that_the_operator_has_named_stays(tmp_path: Path, choose: Choose) -> None:
    state_dir, addresses = StateDir(tmp_path), choose()
    device = {"kind": "pkcs11", "module": "/opt/hsm.so", "tokens": ["b", "a"], "pin_file": "secrets/hsm.pin"}
    write(state_dir, addresses, vault=device)
    settings = write(state_dir, addresses, vault="pkcs11")

    assert settings.hsm is not None
    assert settings.hsm.device == DeviceSettings(
        module=Path("/opt/hsm.so"), tokens=("b", "a"), pin_file=tmp_path / "secrets" / "hsm.pin"
    )
