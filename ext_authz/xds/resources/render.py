"""What Envoy is told of one tenant, for eyes: made from the last-good copy as the agent would make it."""

import json
import sys
from collections.abc import Mapping
from typing import Any, Final, Literal

from envoy_data_plane.envoy.config.route.v3 import RouteConfiguration, ScopedRouteConfiguration

from control_plane import private_file
from ext_authz.policies.last_good import LastGoodCopy
from ext_authz.policies.model import Change, TenantPolicy
from ext_authz.settings import EdgeSettings
from ext_authz.xds.resources.routes import TenantRoutes, UnusablePolicyError, scope
from ext_authz.xds.snapshot import scope_names

_DONE: Final = 0
_FAILED: Final = 1


class _NothingToShowError(Exception):
    """The text says why, and what to do."""


def main(settings: EdgeSettings, tenant_id: str, form: Literal["json", "text"]) -> int:
    """Print the tenant's scopes and routes; return the exit status, 1 where there is nothing to print."""
    try:
        change = _newest(settings)
        made = rendered(settings, change, policy=_policy(change, tenant_id))
    except (_NothingToShowError, UnusablePolicyError) as error:
        sys.stderr.write(f"{error}\n")
        return _FAILED
    sys.stdout.write(json.dumps(made, indent=2) + "\n" if form == "json" else _text(made))
    return _DONE


def rendered(settings: EdgeSettings, change: Change, *, policy: TenantPolicy) -> dict[str, Any]:
    """Return what Envoy is sent, in its own JSON form.

    Raises:
        UnusablePolicyError: when it is sent nothing, since no routes can be made.
    """
    routes = TenantRoutes(domain=settings.domain, shared_hosts=settings.shared_hosts).routes(policy)
    names = scope_names(policy, settings.domain)
    scopes = [ScopedRouteConfiguration.parse(scope(name, policy.tenant_id)) for name in names]
    return {
        "tenant": policy.tenant_id,
        "state": policy.state.value,
        "revision": change.revision,
        "epoch": policy.revision,
        "asOf": change.as_of.isoformat(),
        "scopes": [one.to_dict() for one in scopes],
        "routeConfiguration": RouteConfiguration.parse(routes).to_dict(),
    }


def _newest(settings: EdgeSettings) -> Change:
    try:
        key = private_file.read(settings.copy_key)
    except FileNotFoundError:
        raise _NothingToShowError(f"{settings.copy_key} is absent: no agent has run here yet") from None
    except (private_file.ExposedKeyError, OSError) as error:
        raise _NothingToShowError(f"{settings.copy_key} cannot be used: {error}") from error
    change = LastGoodCopy(settings.edge_dir, key).read()
    if change is None:
        raise _NothingToShowError(f"{settings.edge_dir} holds no copy that can be trusted; is the agent running?")
    return change


def _policy(change: Change, tenant_id: str) -> TenantPolicy:
    for policy in change.tenants:
        if policy.tenant_id == tenant_id:
            return policy
    raise _NothingToShowError(f"the edge knows no tenant {tenant_id} at revision {change.revision}")


def _text(made: Mapping[str, Any]) -> str:
    routes = made["routeConfiguration"]
    lines = [
        f"tenant {made['tenant']}, {made['state']}, epoch {made['epoch']}",
        f"revision {made['revision']} as of {made['asOf']}",
        f"scopes -> {routes['name']}",
        *(f"  {scope['name']}" for scope in made["scopes"]),
    ]
    for host in routes.get("virtualHosts", ()):
        lines += ["hosts", *(f"  {domain}" for domain in host["domains"])]
        lines += ["routes", *(f"  {_route(route)}" for route in host["routes"])]
    if "virtualHosts" not in routes:
        lines.append("no hosts and no routes: every request is refused, without the agent")
    return "\n".join(lines) + "\n"


def _route(route: Mapping[str, Any]) -> str:
    match = route["match"]
    if "pathSeparatedPrefix" in match:
        return f"{match['pathSeparatedPrefix']}[/...] -> agent -> {route['route']['cluster']}"
    shown = match["headers"][0]["stringMatch"]["prefix"]
    answer = route["route"]["cluster"] if "route" in route else str(route["directResponse"]["status"])
    return f"{match['safeRegex']['regex']} with {match['headers'][0]['name']}: {shown}... -> {answer}"
