"""The database's rules that callers can break, by the name of the constraint, and the errors they become."""

from collections.abc import Callable, Mapping
from typing import Final

import psycopg
from psycopg import errors

from control_plane.errors import AlreadyExistsError, DomainError


def _taken(resource: str) -> DomainError:
    return AlreadyExistsError(resource)


def _dns_label_taken(resource: str) -> DomainError:
    return AlreadyExistsError(resource, f"the host name of {resource} is taken", reason="DNS_LABEL_TAKEN")


def _subject_taken(resource: str) -> DomainError:
    return AlreadyExistsError(resource, reason="SUBJECT_TAKEN")


CONSTRAINTS: Final[Mapping[str, Callable[[str], DomainError]]] = {
    "tenants_pkey": _taken,
    "tenants_dns_label_key": _dns_label_taken,
    "users_subject_key": _subject_taken,
}

# Two calls with one request id at the same time: on its second attempt the loser finds the winner's row and repeats its
# answer. A serial number is random: the next one differs. Of two that claim a domain, or a secret's id, the
# loser finds it taken.
_WON_BY_ANOTHER: Final = frozenset({
    "operations_request_id_key",
    "tokens_request_id_key",
    "certificates_request_id_key",
    "certificates_serial_number_key",
    "tenant_domains_pkey",
    "secrets_request_id_key",
    "secrets_secret_id_key",
    "secret_versions_request_id_key",
    "key_use_approvals_use_key",
})  # fmt: skip


def domain_error(error: psycopg.IntegrityError, resource: str) -> DomainError | None:
    """Say what `error` means for `resource`; None where it means a bug of ours."""
    make = CONSTRAINTS.get(error.diag.constraint_name or "")
    return make(resource) if make else None


def is_worth_a_retry(error: psycopg.Error) -> bool:
    """Tell whether the same work may succeed at once in a new transaction."""
    if isinstance(error, errors.SerializationFailure | errors.DeadlockDetected):
        return True
    return isinstance(error, errors.UniqueViolation) and error.diag.constraint_name in _WON_BY_ANOTHER
