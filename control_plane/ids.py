"""Names of tenants, and the identifiers that are made from them. Pure."""

import re
from typing import Final, NewType
from uuid import UUID

import uuid_utils.compat

TenantId = NewType("TenantId", str)
"""What people call a tenant, such as `org_12345`; validated. Never part of SQL: see `postgres.placement`."""

_TENANT_ID: Final = re.compile(r"[a-z][a-z0-9]*(?:_[a-z0-9]+)*", re.ASCII)
_SHORTEST, _LONGEST = 3, 41
# Names that have a meaning of their own in a database, a host name or a path of the platform.
_RESERVED: Final = frozenset({
    "admin", "all", "any", "api", "bulkhead", "cell", "cells", "csm", "default", "information_schema", "localhost",
    "msp", "msps", "none", "null", "platform", "postgres", "public", "root", "self", "shared", "system", "tenant",
    "tenants", "undefined", "valkey", "www",
})  # fmt: skip
_UUID_LENGTH: Final = 36
_RESERVED_PREFIXES: Final = ("pg_", "csm_", "bulkhead_")


def tenant_id_violation(value: str) -> str | None:
    """Say why `value` cannot be a tenant's id, or return None where it can."""
    if not _SHORTEST <= len(value) <= _LONGEST:
        return f"must have {_SHORTEST} to {_LONGEST} characters"
    if not _TENANT_ID.fullmatch(value):
        return "must be lower-case words of a-z and 0-9, joined by single underscores, beginning with a letter"
    if value in _RESERVED or value.startswith(_RESERVED_PREFIXES):
        return "is reserved"
    return None


def schema_name(tenant_id: TenantId) -> str:
    """Name the schema of a new tenant: at most 48 of PostgreSQL's 63 bytes, so that it is never cut off.

    Called once, at creation; ever after the registry says which schema a tenant has.
    """
    return f"tenant_{tenant_id}"


def dns_label(tenant_id: TenantId) -> str:
    """Name the host of a new tenant (RFC 1035 label). Distinct ids give distinct labels, since an id has no `-`."""
    return tenant_id.replace("_", "-")


def new_uuid() -> UUID:
    """Make a UUIDv7: unique, and in the order of its making."""
    return uuid_utils.compat.uuid7()


def uuid_of(text: str) -> UUID | None:
    """Read a UUID in the one form that we write; None for any other text."""
    if len(text) != _UUID_LENGTH:
        return None
    try:
        value = UUID(text)
    except ValueError:
        return None
    return value if str(value) == text else None
