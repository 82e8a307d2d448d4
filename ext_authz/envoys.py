"""The agent's Envoys: what they start from, and the hub that tells them the rest.

Apart from the agent, and imported when one starts: Envoy's messages take a third of a second and sixty megabytes.
"""

import asyncio
from typing import Final

import grpc

from control_plane import private_file
from control_plane.config_file import SettingsError
from ext_authz.settings import EdgeSettings
from ext_authz.xds.hub import Hub
from ext_authz.xds.resources.bootstrap import render_bootstrap
from ext_authz.xds.resources.source import EnvoyResources
from ext_authz.xds.resources.validation import InvalidResourcesError, validate
from ext_authz.xds.servicer import AdsServicer

_BOOTSTRAP: Final = "bootstrap.json"


class UnusableError(Exception):
    """Envoy could not start from what it would be told; the text says why."""


class Envoys(Hub):
    """A hub of the real resources."""

    def __init__(self, resources: EnvoyResources) -> None:
        """Tell `resources`. Call `open_envoys` instead, which asks Envoy about it first."""
        # It may have outlived the agent that told it what it serves by.
        super().__init__(resources, expected=[resources.settings.node])
        self._resources = resources

    async def reload(self) -> None:
        """Tell what is made from files, such as certificates, anew, if Envoy would take it.

        Raises:
            InvalidResourcesError, OSError: it would not, and nothing is changed.
        """
        await validate(self._resources)
        self.use_statics()

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve Envoys on that server."""
        AdsServicer(self).add_to(server)


async def open_envoys(settings: EdgeSettings) -> Envoys:
    """Write what Envoy starts from, and make what it is told afterwards.

    Raises:
        UnusableError: Envoy could not start from it.
    """
    try:
        await asyncio.to_thread(write_bootstrap, settings)
        # Made once: what Envoy was asked about is what it is told.
        resources = await asyncio.to_thread(EnvoyResources, settings)
        await validate(resources)
        return await asyncio.to_thread(Envoys, resources)
    except (InvalidResourcesError, SettingsError, OSError) as error:
        raise UnusableError(f"Envoy cannot be told what to do: {error}") from error


def write_bootstrap(settings: EdgeSettings) -> None:
    """Write what Envoy starts from."""
    private_file.replace(settings.edge_dir / _BOOTSTRAP, render_bootstrap(settings))
