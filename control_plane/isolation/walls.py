"""Every wall of the platform, and all that is asked of them."""

from dataclasses import dataclass

from control_plane.cache.probing import Prober
from control_plane.isolation.probes.api import CertificatesApi, api_probes
from control_plane.isolation.probes.cache import cache_probes, user_probe
from control_plane.isolation.probes.database import catalogue_probes, database_probes
from control_plane.isolation.probes.keys import key_probes
from control_plane.isolation.probes.probe import Between, Probe
from control_plane.isolation.probes.storage import storage_probes
from control_plane.keys.service import TenantKeys
from control_plane.objects.store import ObjectStore
from control_plane.postgres.database import Database
from control_plane.postgres.directory import Directory
from control_plane.tokens.verifier import TokenVerifier


@dataclass(frozen=True, slots=True, kw_only=True)
class Walls:
    """What keeps the tenants of a cell apart."""

    database: Database
    directory: Directory
    keys: TenantKeys
    tokens: TokenVerifier
    objects: ObjectStore
    cache: Prober
    api: CertificatesApi

    def of_tenant(self, between: Between) -> list[Probe]:
        """Return what is asked about one tenant, in order."""
        return [
            *database_probes(self.database, between),
            *key_probes(self.keys, self.tokens, between),
            *storage_probes(self.objects, between),
            *cache_probes(self.cache, between),
            *api_probes(self.api, between),
        ]

    def of_cell(self) -> list[Probe]:
        """Return what is asked about all tenants at once, in order."""
        return [*catalogue_probes(self.database), user_probe(self.cache, self.directory.everyone)]
