"""What Envoy starts from."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest

from control_plane.config_file import SettingsError
from ext_authz.xds.resources.bootstrap import render_bootstrap
from ext_authz.xds.resources.limits import Limits
from tests.integration.ext_authz.envoy_edge.edge import edge_settings


def _made(folder: Path, limits: Limits | None = None) -> Any:
    return json.loads(render_bootstrap(edge_settings(folder), limits or Limits()))


def test_everything_but_the_way_to_the_agent_comes_from_the_agent(tmp_path: Path) -> None:
    made = _made(tmp_path)

    assert made["node"] == {"id": "edge-1-envoy", "cluster": "edge"}
    assert set(made["staticResources"]) == {"clusters"}
    assert [cluster["name"] for cluster in made["staticResources"]["clusters"]] == ["xds"]
    assert made["dynamicResources"]["adsConfig"]["apiType"] == "DELTA_GRPC"
    assert str(tmp_path / "s" / "xds.sock") in json.dumps(made)


@pytest.mark.parametrize("listen", ["0.0.0.0:9901", "10.0.0.1:9901", "[::]:9901"])
def test_the_administration_is_for_this_machine_alone(tmp_path: Path, listen: str) -> None:
    with pytest.raises(SettingsError, match="rules this Envoy"):
        render_bootstrap(replace(edge_settings(tmp_path), admin_listen=listen))


def test_what_all_connections_take_is_bounded(tmp_path: Path) -> None:
    made = _made(tmp_path, Limits(connections=77, heap_bytes=99))
    monitors = [monitor["typedConfig"] for monitor in made["overloadManager"]["resourceMonitors"]]

    assert [monitor.get("maxActiveDownstreamConnections") for monitor in monitors] == ["77", None]
    assert [monitor.get("maxHeapSizeBytes") for monitor in monitors] == [None, "99"]


def test_it_is_the_same_every_time(tmp_path: Path) -> None:
    settings = edge_settings(tmp_path)

    assert render_bootstrap(settings) == render_bootstrap(settings)
