"""Who the parts of the edge are to others, and by which authority tenants' own clients are known."""

from datetime import datetime
from typing import Final

from control_plane.stack.authority import Authority, Identity, keep_authority

DOMAIN: Final = "csm.example.com"
"""The platform's domain; a tenant's host is its DNS label below it."""
PLATFORM_HOST: Final = f"api.{DOMAIN}"
"""The host that belongs to no tenant."""

AGENT: Final = Identity(name="edge-agent", spiffe="spiffe://bulkhead/edge/local")
"""The agent, to the control plane."""
UPSTREAM: Final = Identity(name="edge-upstream", spiffe="spiffe://bulkhead/service/edge")
"""Envoy, to the services behind it."""
SERVER: Final = Identity(name="edge", hosts=(PLATFORM_HOST, f"*.{DOMAIN}", "localhost"))
"""Envoy, to tenants. Operators put their own in its place, which may name tenants' custom domains."""
CLIENTS: Final = "edge-clients"
"""The authority whose certificates tenants' clients may show."""


def keep_edge_identities(authority: Authority, now: datetime) -> None:
    """See to it that each part of the edge has its certificate, and that tenants' clients have an authority."""
    authority.keep_certificate(AGENT, now)
    authority.keep_certificate(UPSTREAM, now)
    authority.keep_replaceable_certificate(SERVER, now)
    keep_authority(authority.folder, CLIENTS, title="Bulkhead tenants' clients", now=now)
