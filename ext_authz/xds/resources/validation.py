"""The real Envoy's opinion of what it is about to be told.

`envoy --mode validate` reads a configuration as it would to start with it, opens no port and no connection, and says
what is wrong. It is asked about everything that is the same for all tenants, before that is pushed: an Envoy that is
given a bad listener keeps its old one, but one that starts has none.
"""

import asyncio
import tempfile
from datetime import timedelta
from importlib.resources import files
from pathlib import Path
from typing import Final
from uuid import UUID

from envoy_data_plane.envoy.config.core.v3 import Address, Pipe
from envoy_data_plane.envoy.config.listener.v3 import Listener
from envoy_data_plane.envoy.config.route.v3 import RouteConfiguration
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpConnectionManager
from envoy_data_plane.google.protobuf import Any

from ext_authz.policies.model import State, TenantPolicy
from ext_authz.xds.resources.bootstrap import ads, bootstrap
from ext_authz.xds.resources.source import EnvoyResources

_LONGEST_S: Final = 20
_MOST_ASKED: Final = 8
_MOST_TOLD: Final = 2000


class InvalidResourcesError(Exception):
    """Envoy would not take it; the text is Envoy's own."""


def envoy_binary() -> Path:
    """Return the path of the installed Envoy itself, rather than of the script that starts it."""
    return Path(str(files("envoy") / "_bin" / "envoy"))


async def validate(resources: EnvoyResources) -> None:
    """Ask Envoy about the listeners, clusters and secrets as they are now, and about the routes of two tenants.

    Costs a tenth of a second of another process.

    Raises:
        InvalidResourcesError: when it would not take them.
        OSError: when a certificate or a key cannot be read.
    """
    with tempfile.TemporaryDirectory(prefix="bulkhead-validate-") as folder:
        path = Path(folder) / "bootstrap.pb"
        path.touch(mode=0o600)
        path.write_bytes(await asyncio.to_thread(everything, resources))
        await _ask(path)


def everything(resources: EnvoyResources) -> bytes:
    """Return a bootstrap, in Envoy's binary form, that holds what is pushed later.

    Keys are only compared with their certificates where both are at hand. So listeners are there as they are pushed,
    and again with secrets that Envoy has from the start; clusters in the second form alone: in this mode Envoy crashes
    over a cluster whose secrets are to come over the stream.
    """
    made = bootstrap(resources.settings, resources.limits)
    static = made.static_resources
    if static is None:
        raise InvalidResourcesError("the bootstrap has no static resources")
    static.secrets = resources.secrets()
    static.clusters += resources.clusters(None)
    static.listeners = resources.listeners(ads())
    for state, listener in zip(State, resources.listeners(None), strict=True):
        tenant = RouteConfiguration.parse(resources.routes(_sample(state)))
        static.listeners.append(_with_routes(listener, f"{listener.name}_{state.lower()}", tenant))
    return bytes(made)


def _with_routes(listener: Listener, name: str, routes: RouteConfiguration) -> Listener:
    """Put the routes into the listener, in the place of where it would fetch them. It needs an address of its own."""
    listener.name = listener.stat_prefix = name
    listener.address = Address(pipe=Pipe(path=f"@{name}"))
    (connections,) = listener.filter_chains[0].filters
    manager = HttpConnectionManager.parse(connections.typed_config.value if connections.typed_config else b"")
    manager.scoped_routes, manager.route_config = None, routes
    connections.typed_config = Any.pack(manager)
    return listener


def _sample(state: State) -> TenantPolicy:
    return TenantPolicy(
        tenant_id="sample_tenant",
        uid=UUID(int=0),
        revision=1,
        state=state,
        tier="standard",
        isolation_level="POOLED",
        dns_label="sample",
        domains=("sample.example.net",),
        requests_per_minute=1,
        token_keys={},
        max_age=timedelta(minutes=15),
    )


async def _ask(path: Path) -> None:
    """Ask Envoy, and again where it crashes: now and then it does when it has looked at everything and ends (1.40)."""
    code, said = await _run(path)
    for _ in range(_MOST_ASKED - 1):
        if code >= 0:
            break
        code, said = await _run(path)
    if code > 0:
        raise InvalidResourcesError(said or f"it ended with {code}, and said nothing")
    if code < 0:
        raise InvalidResourcesError(said or f"it crashed {_MOST_ASKED} times, the last time with signal {-code}")


async def _run(path: Path) -> tuple[int, str]:
    """Return how Envoy ended, below 0 where a signal ended it, and what it said."""
    envoy_process = await asyncio.create_subprocess_exec(
        str(envoy_binary()),
        *("--mode", "validate", "--log-level", "warning", "-c", str(path)),
        stdin=asyncio.subprocess.DEVNULL,
        stdout=asyncio.subprocess.DEVNULL,
        stderr=asyncio.subprocess.PIPE,
    )
    try:
        async with asyncio.timeout(_LONGEST_S):
            _, said = await envoy_process.communicate()
    except TimeoutError:
        raise InvalidResourcesError(f"Envoy said nothing about it for {_LONGEST_S} s") from None
    finally:
        if envoy_process.returncode is None:
            envoy_process.kill()
        code = await envoy_process.wait()
    return code, said.decode(errors="replace").strip()[-_MOST_TOLD:]
