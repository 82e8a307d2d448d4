"""Resource names."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from control_plane.errors import InvalidArgumentError
from control_plane.serving import names


def test_a_name_is_taken_apart() -> None:
    parts = names.parse(names.CERTIFICATE, "tenants/org_1/certificates/abc")

    assert parts == {"tenant": "org_1", "certificate": "abc"}


@pytest.mark.behaviour("S4.15")
@pytest.mark.parametrize(
    "name",
    [
        "",
        "tenants",
        "tenants/",
        "tenants/org_1/",
        "/tenants/org_1",
        "tenants/org_1/certificates/a",
        "tenants/ORG_1",
        "tenants/org_1\n",
        "tenants/../org_1",
        "tenants/org%5f1",
        "tenants/csm_system",
        "tenants/оrg_1",  # noqa: RUF001 a look-alike is what is tested
        "Tenants/org_1",
    ],
)
def test_what_is_not_a_tenants_name_is_refused_by_field(name: str) -> None:
    with pytest.raises(InvalidArgumentError) as refused:
        names.parse(names.TENANT, name, field="parent")

    assert [violation.field for violation in refused.value.violations] == ["parent"]


@given(st.text(max_size=60))
def test_no_text_names_a_tenant_whose_id_is_invalid(text: str) -> None:
    try:
        tenant_id = names.tenant_of(text)
    except InvalidArgumentError:
        return

    assert text == f"tenants/{tenant_id}" or text.startswith(f"tenants/{tenant_id}/")
