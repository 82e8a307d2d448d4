"""A real Envoy whose requests the real servicer decides."""

from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from pathlib import Path

import grpc
import pytest

from ext_authz.authz.servicer import CheckServicer
from ext_authz.budgets.reserves import Budgets
from ext_authz.xds.resources.source import EnvoyResources
from tests.integration.ext_authz.check.servers import KEY, serving_checks
from tests.integration.ext_authz.envoy_edge import edge as envoy_edge
from tests.integration.ext_authz.envoy_edge.edge import Edge, running_edge
from tests.unit.ext_authz.authz.checks import DOMAIN, INDEX, NOW, SHARED, SUSPENDED, A, B


@asynccontextmanager
async def deciding_edge(budgets: Budgets, *, resources: type[EnvoyResources] = EnvoyResources) -> AsyncIterator[Edge]:
    """Start an edge that knows the tenants of `checks`, and is told `resources`."""
    servicer = CheckServicer(
        domain=DOMAIN,
        shared_hosts=SHARED,
        context_key=KEY,
        budgets=budgets,
        denied=lambda _: None,
        used=lambda _: None,
        now=lambda: NOW,
    )
    servicer.use(INDEX)

    @asynccontextmanager
    async def serving(_: object, path: Path) -> AsyncIterator[grpc.aio.Server]:
        async with serving_checks(servicer, path) as server:
            yield server

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(envoy_edge, "serving_worker", serving)
        patch.setattr(envoy_edge, "EnvoyResources", resources)
        async with running_edge() as edge:
            await edge.tell(A.policy, B.policy, SUSPENDED.policy)
            yield edge
