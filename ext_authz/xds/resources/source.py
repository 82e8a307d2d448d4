"""Everything that Envoy is told, in one place: the source that the hub serves from."""

from collections.abc import Iterable, Mapping
from typing import Final

from envoy_data_plane.envoy.config.cluster.v3 import Cluster
from envoy_data_plane.envoy.config.core.v3 import ConfigSource
from envoy_data_plane.envoy.config.listener.v3 import Listener
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import Secret
from envoy_data_plane.google.protobuf import Any

from ext_authz.policies.model import TenantPolicy
from ext_authz.settings import EdgeSettings
from ext_authz.xds.resources import clusters, filters, listeners, routes, tls
from ext_authz.xds.resources.bootstrap import ads
from ext_authz.xds.resources.connection_manager import connection_manager
from ext_authz.xds.resources.limits import DEFAULTS, Limits

_TYPES: Final = "type.googleapis.com/envoy"


class EnvoyResources:
    """Makes the resources of one edge. The script is read once; certificates each time that `statics` is asked for."""

    def __init__(self, settings: EdgeSettings, limits: Limits = DEFAULTS, *, lua: str | None = None) -> None:
        """Make them of `settings`; another `lua` than ours is for tests."""
        self.settings = settings
        self.limits = limits
        script = filters.read_lua() if lua is None else lua
        # Costs a tenth of a second, and is the same for as long as this lives.
        self._plain, self._tls = (
            Any.pack(connection_manager(text, limits, lease_log=settings.lease_log))
            for text in (script, filters.over_tls(script))
        )
        self._routes = routes.TenantRoutes(domain=settings.domain, shared_hosts=settings.shared_hosts)

    def statics(self) -> Mapping[str, Mapping[str, bytes]]:
        """Return all listeners, clusters and secrets: by type URL, then by name, each serialized.

        Raises:
            OSError: when a certificate or a key cannot be read.
        """
        return {
            f"{_TYPES}.config.cluster.v3.Cluster": _named(self.clusters(ads())),
            f"{_TYPES}.extensions.transport_sockets.tls.v3.Secret": _named(self.secrets()),
            f"{_TYPES}.config.listener.v3.Listener": _named(self.listeners(ads())),
        }

    def scope(self, name: str, tenant_id: str) -> bytes:
        """Return the serialized scope of that name, which leads to the tenant's routes."""
        return routes.scope(name, tenant_id)

    def routes(self, policy: TenantPolicy) -> bytes:
        """Return the serialized routes of the tenant.

        Raises:
            UnusablePolicyError: when the policy's names are not what such names are.
        """
        return self._routes.routes(policy)

    def clusters(self, source: ConfigSource | None) -> list[Cluster]:
        """Return the clusters; they find their secrets at `source`, or among those that Envoy was started with."""
        sockets = [self.settings.check_socket(number) for number in range(self.settings.workers)]
        return [clusters.certificates(self.settings.upstream, source), clusters.ext_authz(sockets)]

    def listeners(self, source: ConfigSource | None) -> list[Listener]:
        """Return the listeners; they find their secrets as clusters do."""
        return [
            listeners.edge_http(self.settings.http_listen, self._plain),
            listeners.edge_https(self.settings.https_listen, self._tls, source),
        ]

    def secrets(self) -> list[Secret]:
        """Read the keys and certificates."""
        paths = self.settings
        return [
            tls.certificate_secret(tls.EDGE_CERTIFICATE, paths.server_certificate, paths.server_key),
            tls.authority_secret(tls.EDGE_CLIENT_CA, paths.client_ca_file),
            tls.certificate_secret(tls.UPSTREAM_CERTIFICATE, paths.upstream_certificate, paths.upstream_key),
            tls.authority_secret(tls.UPSTREAM_CA, paths.ca_file),
        ]


def _named(resources: Iterable[Cluster | Listener | Secret]) -> dict[str, bytes]:
    return {resource.name: bytes(resource) for resource in resources}
