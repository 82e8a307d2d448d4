"""Which key a request names, and that what is sealed is bound to its name."""

from uuid import UUID

import pytest

from control_plane.encryption.model import Purpose, check_key
from control_plane.errors import Violations


@pytest.mark.parametrize(
    ("name", "key_id"),
    [("", "services"), ("tenants/org_1/keys/services", "services"), ("tenants/org_1/keys/invoices", "invoices")],
)
def test_a_key_is_named_as_a_resource_of_the_tenant(name: str, key_id: str) -> None:
    violations = Violations()

    assert check_key(name, "tenants/org_1", violations) == key_id
    assert violations.found == []


@pytest.mark.parametrize(
    "name",
    [
        "x",
        "tenants/org_2/keys/x",
        "tenants/org_1/keys/",
        "tenants/org_1/keys/x/versions/1",
        "tenants/org_1/keys/x/keys/y",
        "tenants/org_1/secrets/x",
    ],
)
def test_what_is_none_of_the_tenants_is_refused(name: str) -> None:
    violations = Violations()
    check_key(name, "tenants/org_1", violations)

    assert [violation.field for violation in violations.found] == ["key"]


@pytest.mark.behaviour("S2.7")
def test_what_is_sealed_is_bound_to_the_name_of_its_key() -> None:
    bound = [Purpose().aad(UUID(int=1), key_id, 1) for key_id in ("services", "encryption", "invoices", "letters")]

    assert len(set(bound)) == len(bound)
    unnamed = check_key("", "tenants/org_1", Violations())
    assert Purpose().aad(UUID(int=1), unnamed, 1) == bound[0]
