"""The real Envoy is asked before anything is pushed."""

from dataclasses import replace
from pathlib import Path

import pytest

from ext_authz.xds.resources import filters, validation
from ext_authz.xds.resources.limits import Limits
from ext_authz.xds.resources.source import EnvoyResources
from ext_authz.xds.resources.validation import InvalidResourcesError, validate
from tests.integration.ext_authz.envoy_edge.edge import edge_settings


async def test_envoy_takes_what_it_is_going_to_be_told(tmp_path: Path) -> None:
    await validate(EnvoyResources(edge_settings(tmp_path)))


async def test_a_key_that_is_not_the_certificates_is_noticed(tmp_path: Path) -> None:
    settings = edge_settings(tmp_path)

    with pytest.raises(InvalidResourcesError, match="KEY_VALUES_MISMATCH"):
        await validate(EnvoyResources(replace(settings, server_key=settings.key)))
    with pytest.raises(InvalidResourcesError, match="KEY_VALUES_MISMATCH"):
        await validate(EnvoyResources(replace(settings, upstream_key=settings.server_key)))


async def test_a_certificate_that_is_none_is_noticed(tmp_path: Path) -> None:
    settings = edge_settings(tmp_path)
    settings.client_ca_file.write_text("no certificate")

    with pytest.raises(InvalidResourcesError):
        await validate(EnvoyResources(settings))


async def test_a_certificate_that_is_absent_is_told_as_such(tmp_path: Path) -> None:
    settings = edge_settings(tmp_path)
    settings.server_certificate.unlink()

    with pytest.raises(FileNotFoundError):
        await validate(EnvoyResources(settings))


async def test_a_listener_that_envoy_does_not_know_how_to_read_is_noticed(tmp_path: Path) -> None:
    with pytest.raises(InvalidResourcesError, match=r"(?i)max_?request_?headers_?kb"):
        await validate(EnvoyResources(edge_settings(tmp_path), Limits(request_headers_kib=10_000_000)))


async def test_routes_that_envoy_does_not_take_are_noticed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(EnvoyResources, "routes", lambda *_: b"\x0a\x01x\x12\x02\x0a\x00")

    with pytest.raises(InvalidResourcesError):
        await validate(EnvoyResources(edge_settings(tmp_path)))


@pytest.mark.parametrize("script", ["function envoy_on_request(", "error('at once')", "local x = nil; x()"])
async def test_a_script_that_cannot_be_loaded_is_noticed(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, script: str
) -> None:
    monkeypatch.setattr(filters, "read_lua", lambda: script)

    with pytest.raises(InvalidResourcesError):
        await validate(EnvoyResources(edge_settings(tmp_path)))


async def test_an_envoy_that_says_nothing_is_not_waited_for(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    silent = tmp_path / "silent"
    silent.write_text("#!/bin/sh\nexec sleep 60\n")
    silent.chmod(0o700)
    monkeypatch.setattr(validation, "envoy_binary", lambda: silent)
    monkeypatch.setattr(validation, "_LONGEST_S", 0.1)

    with pytest.raises(InvalidResourcesError, match="said nothing"):
        await validate(EnvoyResources(edge_settings(tmp_path)))


async def test_a_crash_says_nothing_about_the_configuration(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crashing = tmp_path / "envoy"
    crashing.write_text(f"#!/bin/sh\n[ -e {tmp_path}/again ] && exit 0\n: > {tmp_path}/again\nkill -SEGV $$\n")
    crashing.chmod(0o700)
    monkeypatch.setattr(validation, "envoy_binary", lambda: crashing)

    await validate(EnvoyResources(edge_settings(tmp_path)))


async def test_an_envoy_that_always_crashes_takes_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    crashing = tmp_path / "envoy"
    crashing.write_text("#!/bin/sh\nkill -SEGV $$\n")
    crashing.chmod(0o700)
    monkeypatch.setattr(validation, "envoy_binary", lambda: crashing)

    with pytest.raises(InvalidResourcesError, match="crashed 8 times, the last time with signal 11"):
        await validate(EnvoyResources(edge_settings(tmp_path)))
