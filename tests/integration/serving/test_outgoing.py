"""No answer leaves with another tenant's marker in it."""

from collections.abc import Awaitable, Callable
from typing import TYPE_CHECKING

import grpc
import pytest

from bulkhead.v1 import certificates_pb2, certificates_pb2_grpc
from control_plane.ids import TenantId
from control_plane.postgres.database import Database
from control_plane.postgres.placement import Placement
from control_plane.serving.principal import Principal, Role

if TYPE_CHECKING:
    from tests.integration.serving.conftest import Rig

MakeTenant = Callable[..., Awaitable[Placement]]


async def get(rig: "Rig", name: str) -> certificates_pb2.Certificate:
    rig.principals["good"] = Principal(
        subject="alice",
        role=Role.TENANT_MEMBER,
        tenant=TenantId("org_1"),
        scopes=frozenset({"certificates.read"}),
    )
    async with rig.token_channel() as channel:
        stub = certificates_pb2_grpc.CertificateServiceStub(channel)
        answer: certificates_pb2.Certificate = await stub.GetCertificate(
            certificates_pb2.GetCertificateRequest(name=name),
            metadata=(("authorization", "Bearer good"),),
            timeout=10,
        )
        return answer


@pytest.mark.behaviour("S1.17")
@pytest.mark.behaviour("H13")
async def test_an_answer_with_another_tenants_marker_is_held_back_and_told(
    rig: "Rig", make_tenant: MakeTenant, database: Database
) -> None:
    ours, theirs = await make_tenant("org_1"), await make_tenant("org_2")
    rig.servicer.says = f"before {database.canaries.marker(theirs.uid)} after"
    with pytest.raises(grpc.aio.AioRpcError) as caught:
        await get(rig, "tenants/org_1/certificates/c")
    ((call, error),) = rig.breached

    assert (caught.value.code(), caught.value.details()) == (grpc.StatusCode.INTERNAL, "internal error")
    assert theirs.uid.hex not in str(caught.value)
    assert (error.owner_uid, error.channel) == (theirs.uid, "response")
    assert call.placement == ours


@pytest.mark.parametrize("whose", ["own", "nobody's"])
async def test_an_answer_with_anything_else_goes_out_as_it_is(
    whose: str, rig: "Rig", make_tenant: MakeTenant, database: Database
) -> None:
    ours, theirs = await make_tenant("org_1"), await make_tenant("org_2")
    own = database.canaries.marker(ours.uid)
    rig.servicer.says = own if whose == "own" else f"bulkhead_canary_{theirs.uid.hex}_{'0' * 32}"
    answer = await get(rig, "tenants/org_1/certificates/c")

    assert answer.pem_chain == rig.servicer.says
    assert rig.breached == []
