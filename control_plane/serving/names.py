"""Resource names (AIP-122): `tenants/{tenant}/certificates/{certificate}`. Pure."""

import re
from functools import cache
from typing import Final

from control_plane.errors import FieldViolation, InvalidArgumentError
from control_plane.ids import TenantId, tenant_id_violation

TENANT: Final = "tenants/{tenant}"
TOKEN: Final = "tenants/{tenant}/tokens/{token}"  # noqa: S105 a pattern of names, not a secret
CERTIFICATE: Final = "tenants/{tenant}/certificates/{certificate}"
ATTESTATION: Final = "tenants/{tenant}/attestations/{attestation}"
KEY: Final = "tenants/{tenant}/keys/{key}"
KEY_VERSION: Final = "tenants/{tenant}/keys/{key}/versions/{version}"
IMPORT_JOB: Final = "tenants/{tenant}/importJobs/{job}"
DESTRUCTION_RECEIPT: Final = "tenants/{tenant}/destructionReceipts/{receipt}"
KEY_RECOVERY: Final = "tenants/{tenant}/keyRecoveries/{recovery}"
SECRET: Final = "tenants/{tenant}/secrets/{secret}"  # noqa: S105 a pattern of names, not a secret
SECRET_VERSION: Final = "tenants/{tenant}/secrets/{secret}/versions/{version}"  # noqa: S105 likewise
KEY_USE_APPROVAL: Final = "tenants/{tenant}/keyUseApprovals/{approval}"
CELL: Final = "cells/{cell}"
OPERATION: Final = "operations/{operation}"


@cache
def _pattern(pattern: str) -> re.Pattern[str]:
    return re.compile(re.sub(r"\\{(\w+)\\}", r"(?P<\1>[^/]+)", re.escape(pattern)))


def parse(pattern: str, name: str, *, field: str = "name") -> dict[str, str]:
    """Take `name` apart; the tenant's id in it is valid.

    Raises:
        InvalidArgumentError: of `field`, when the name is not like the pattern.
    """
    match = _pattern(pattern).fullmatch(name)
    if match is None:
        raise InvalidArgumentError(FieldViolation(field=field, description=f"must be like {pattern}", reason="NAME"))
    parts = match.groupdict()
    if "tenant" in parts and (description := tenant_id_violation(parts["tenant"])) is not None:
        raise InvalidArgumentError(
            FieldViolation(field=field, description=f"the tenant's id {description}", reason="TENANT_ID")
        )
    return parts


def check_form(template: str, name: str, *, field: str) -> None:
    """Check the whole name against the form that its method's REST path gives: `tenants/*/certificates/*`.

    Raises:
        InvalidArgumentError: of `field`, when it has another form.
    """
    if not _form(template).fullmatch(name):
        raise InvalidArgumentError(FieldViolation(field=field, description=f"must be like {template}", reason="NAME"))


@cache
def _form(template: str) -> re.Pattern[str]:
    return re.compile(re.escape(template).replace(r"\*", "[^/]+"))


def tenant_of(name: str, *, field: str = "name") -> TenantId:
    """Return the id of the tenant that the resource `name` belongs to.

    Raises:
        InvalidArgumentError: of `field`, when the name does not begin with a tenant.
    """
    prefix = "/".join(name.split("/", 2)[:2])
    return TenantId(parse(TENANT, prefix, field=field)["tenant"])


def tenant_name(tenant_id: str) -> str:
    """Name the tenant."""
    return f"tenants/{tenant_id}"
