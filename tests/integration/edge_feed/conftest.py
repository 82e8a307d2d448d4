"""A tenant, and the connection of whoever reads what the edge is to know."""

import pytest

from control_plane.postgres.placement import Placement
from tests.fixtures.canaries import ConnectAs, RawConnection
from tests.fixtures.postgres import MakeTenant


@pytest.fixture
async def control(connect_as: ConnectAs) -> RawConnection:
    return await connect_as("csm_control")


@pytest.fixture
async def org_1(make_tenant: MakeTenant) -> Placement:
    return await make_tenant("org_1")
