"""A tenant that sends many calls at once waits for its own, and nobody else does."""

import asyncio
from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import pytest

from bulkhead.v1 import certificates_pb2, certificates_pb2_grpc
from control_plane.ids import TenantId
from control_plane.postgres.placement import Placement
from control_plane.serving.principal import Principal, Role

if TYPE_CHECKING:
    from tests.integration.serving.conftest import Rig

MakeTenant = Callable[..., Awaitable[Placement]]


@pytest.mark.behaviour("S7.2", "T-X1")
async def test_a_tenants_calls_are_worked_on_one_by_one_while_others_call(rig: "Rig", make_tenant: MakeTenant) -> None:
    for tenant in ("org_1", "org_2"):
        await make_tenant(tenant)
        rig.principals[tenant] = Principal(
            subject="alice",
            role=Role.TENANT_MEMBER,
            tenant=TenantId(tenant),
            scopes=frozenset({"certificates.read"}),
        )
    async with rig.token_channel() as channel:
        stub = certificates_pb2_grpc.CertificateServiceStub(channel)

        async def get(tenant: str) -> None:
            asked = certificates_pb2.GetCertificateRequest(name=f"tenants/{tenant}/certificates/c")
            await stub.GetCertificate(asked, metadata=(("authorization", f"Bearer {tenant}"),), timeout=10)

        # Whoever comes first finds the tenants' entries for both.
        await asyncio.gather(get("org_1"), get("org_2"))
        rig.servicer.takes_s = 0.01
        await asyncio.gather(get("org_2"), *(get("org_1") for _ in range(8)), get("org_2"))

    assert rig.servicer.served == 12
    assert rig.servicer.most_at_once == {"tenants/org_1/certificates/c": 1, "tenants/org_2/certificates/c": 1}
