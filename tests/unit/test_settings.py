"""Settings."""

import json
from pathlib import Path

import pytest

from control_plane.config_file import SettingsError
from control_plane.settings import HsmSettings, ObjectsSettings, Settings


def test_a_missing_file_says_who_writes_it(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="up` writes it"):
        Settings.from_dir(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"objects": "x", "postgres": {"port": "none"}}'])
def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(SettingsError, match=r"config\.json"):
        Settings.from_dir(tmp_path)


def _with_objects(state_dir: Path, objects: object) -> ObjectsSettings:
    listener = {"listen": "", "internal_listen": "", "certificate": "", "key": ""}
    connections = {"control_plane": 1, "certificates": 1}
    config = {
        "postgres": {"socket_dir": "", "port": 1, "dbname": "", "tenant_connections": connections},
        "valkey": {"socket": ""},
        "control_plane": listener,
        "certificates": listener,
        **dict.fromkeys(("ca_file", "admin_token_file", "secrets_dir", "vault_dir"), ""),
        "restricts_unsafe": True,
        "services": {},
        "objects": objects,
    }
    (state_dir / "config.json").write_text(json.dumps(config))
    return Settings.from_dir(state_dir).objects


def test_objects_are_in_a_directory_or_in_a_bucket_with_options(tmp_path: Path) -> None:
    whole = {"url": "s3://objects", "options": {"region": "local"}, "credentials_file": "secrets/s3.json"}

    assert _with_objects(tmp_path, "objects") == ObjectsSettings(
        location=str(tmp_path / "objects"), options={}, credentials_file=None
    )
    assert _with_objects(tmp_path, "/srv/objects").location == "/srv/objects"
    assert _with_objects(tmp_path, "s3://objects").location == "s3://objects"
    assert _with_objects(tmp_path, {"url": "elsewhere"}).location == str(tmp_path / "elsewhere")
    assert _with_objects(tmp_path, whole) == ObjectsSettings(
        location="s3://objects", options={"region": "local"}, credentials_file=tmp_path / "secrets/s3.json"
    )


@pytest.mark.parametrize(
    "objects", [{}, {"url": "s3://objects", "secret_access_key": "very secret"}, 7, {"options": {}}]
)
def test_what_is_no_place_of_objects_is_named_and_not_repeated(tmp_path: Path, objects: object) -> None:
    with pytest.raises(SettingsError, match=r"config\.json") as refused:
        _with_objects(tmp_path, objects)
    assert "very secret" not in str(refused.value)


def _with_vault(state_dir: Path, vault: object) -> HsmSettings | None:
    _with_objects(state_dir, "objects")
    path = state_dir / "config.json"
    path.write_text(json.dumps(json.loads(path.read_text()) | {"vault": vault}))
    return Settings.from_dir(state_dir).hsm


def test_the_vault_is_software_or_a_device(tmp_path: Path) -> None:
    assert _with_vault(tmp_path, "software") is None
    assert _with_vault(tmp_path, "pkcs11") == HsmSettings()
    assert _with_vault(tmp_path, {"kind": "pkcs11", "shards": 3}) == HsmSettings(shards=3)


@pytest.mark.parametrize(
    "vault",
    [
        "pkcs12",
        {"kind": "software", "module": "x"},
        {"kind": "pkcs11", "shards": 0},
        {"kind": "pkcs11", "module": "/opt/hsm.so"},
        {"kind": "pkcs11", "module": "/opt/hsm.so", "tokens": [], "pin_file": "pin"},
        {"kind": "pkcs11", "pin": "very secret"},
        7,
    ],
)
def test_what_is_no_vault_is_named_and_opens_no_other_one(tmp_path: Path, vault: object) -> None:
    with pytest.raises(SettingsError, match=r"config\.json") as refused:
        _with_vault(tmp_path, vault)
    assert "very secret" not in str(refused.value)
