"""What the tests of the hub share."""

from datetime import UTC, datetime

import pytest

from ext_authz.xds.hub import Hub
from tests.fixtures.plain_resources import PlainResources
from tests.unit.ext_authz.xds.conversation import HUNDRED


@pytest.fixture
def source() -> PlainResources:
    source = PlainResources({"edge_http": b"listener"})
    source.clusters = {"certificates": b"cluster"}
    source.secrets = {"edge_certificate": b"certificate"}
    return source


@pytest.fixture
def hub(source: PlainResources) -> Hub:
    hub = Hub(source, now=lambda: datetime(2026, 1, 1, tzinfo=UTC))
    hub.use(HUNDRED)
    return hub
