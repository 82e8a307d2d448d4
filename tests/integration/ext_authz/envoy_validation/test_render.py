"""What is shown of a tenant is what Envoy is told of it."""

import json
from dataclasses import replace
from datetime import UTC, datetime
from pathlib import Path

import pytest
from envoy_data_plane.envoy.config.route.v3 import RouteConfiguration

from control_plane import private_file
from ext_authz.policies.last_good import LastGoodCopy
from ext_authz.policies.ledger import Ledger
from ext_authz.policies.model import Change, Index
from ext_authz.settings import EdgeSettings
from ext_authz.xds.resources import render
from ext_authz.xds.resources.source import EnvoyResources
from tests.integration.ext_authz.envoy_edge.edge import DOMAIN, TENANTS, edge_settings


@pytest.fixture
async def settings(tmp_path: Path) -> EdgeSettings:
    settings = edge_settings(tmp_path)
    private_file.create(settings.copy_key, bytes(32))
    ledger = Ledger(Index(domain=DOMAIN))
    now = datetime(2026, 1, 1, tzinfo=UTC)
    ledger.take(Change(feed="f", revision=7, snapshot=True, tenants=TENANTS, revocations={}, as_of=now))
    await LastGoodCopy(settings.edge_dir, bytes(32)).write(ledger)
    return settings


def test_the_json_is_envoys_own(settings: EdgeSettings, capsys: pytest.CaptureFixture[str]) -> None:
    assert render.main(settings, "acme", "json") == 0

    made = json.loads(capsys.readouterr().out)
    assert (made["tenant"], made["revision"], made["epoch"]) == ("acme", 7, 1)
    assert [scope["name"] for scope in made["scopes"]] == [
        "id:acme",
        "host:acme.csm.example.com",
        "host:certificates.acme.example",
    ]
    told = EnvoyResources(settings).routes(TENANTS[0])
    assert RouteConfiguration.from_dict(made["routeConfiguration"]) == RouteConfiguration.parse(told)


def test_the_text_says_who_is_asked(settings: EdgeSettings, capsys: pytest.CaptureFixture[str]) -> None:
    render.main(settings, "acme", "text")
    active = capsys.readouterr().out
    render.main(settings, "frozen", "text")
    frozen = capsys.readouterr().out

    assert "/api/v1/tenants/acme[/...] -> agent -> certificates" in active
    assert (
        "/api/v1/tenants/acme/(certificates) with x-bulkhead-lease: 1.certificates.list.... -> certificates" in active
    )
    assert "with x-bulkhead-lease: 1.held.... -> 429" in active
    assert "every request is refused, without the agent" in frozen
    assert "-> agent" not in frozen


def test_a_tenant_that_the_edge_does_not_know_is_said_to_be_unknown(
    settings: EdgeSettings, capsys: pytest.CaptureFixture[str]
) -> None:
    assert render.main(settings, "nobody", "json") == 1
    assert "knows no tenant nobody" in capsys.readouterr().err


@pytest.mark.parametrize("gone", ["copy_key", "edge_dir"])
def test_without_a_copy_it_is_said_what_is_missing(
    settings: EdgeSettings, capsys: pytest.CaptureFixture[str], gone: str
) -> None:
    elsewhere = replace(settings, **{gone: settings.state_dir / "nowhere"})  # type: ignore[arg-type]  # paths, both

    assert render.main(elsewhere, "acme", "json") == 1
    assert "nowhere" in capsys.readouterr().err
