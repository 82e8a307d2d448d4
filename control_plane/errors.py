"""What can go wrong that a caller must be able to tell apart.

::

    DomainError
    ├── InvalidArgumentError      the request can never work: lists every violation
    ├── UnauthenticatedError      who are you?
    ├── PermissionDeniedError     not you
    │   └── PolicyDeniedError     not for this, says a policy of the caller's own tenant
    ├── NotFoundError             absent, or you may not know that it exists
    ├── AlreadyExistsError        the name or the request id is taken
    ├── EtagMismatchError         somebody changed it in between (AIP-154)
    ├── ConflictError             lost against others too often; the same call may work at once
    ├── PreconditionError         not in this state
    │   ├── TenantSealedError     nothing of the tenant is opened for anybody
    │   └── KeyRetiredError       what sealed this is not used any more
    ├── QuotaExceededError        a limit is reached
    └── UnavailableError          something we need is away; try again

Everything else is a bug: the caller reads "internal error" and a request id, the log has the rest. Which gRPC status
each becomes is said in `serving/status.py` and nowhere else.
"""

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import timedelta
from typing import ClassVar


class DomainError(Exception):
    """An error that a caller may see, word for word. `reason` is stable for ever (AIP-193)."""

    reason: ClassVar[str] = "DOMAIN_ERROR"

    def __init__(self, message: str, /, *, reason: str | None = None, **metadata: str) -> None:
        """Keep the message for a developer, and in `metadata` each part of it that varies."""
        super().__init__(message)
        self.message = message
        self.code = reason or type(self).reason
        self.metadata: Mapping[str, str] = metadata


@dataclass(frozen=True, slots=True, kw_only=True)
class FieldViolation:
    """What is wrong with one field: its path in the request, and a sentence about its value."""

    field: str
    description: str
    reason: str = "INVALID"


class InvalidArgumentError(DomainError):
    """The request can never work."""

    reason = "INVALID_ARGUMENT"

    def __init__(self, *violations: FieldViolation) -> None:
        """List every violation, so that the caller mends them at once."""
        super().__init__("; ".join(f"{v.field}: {v.description}" for v in violations))
        self.violations = violations


@dataclass(slots=True)
class Violations:
    """Collects what is wrong with a request, to say it all at once."""

    found: list[FieldViolation] = field(default_factory=list)

    def add(self, name: str, description: str | None, *, reason: str = "INVALID") -> None:
        """Note a violation of the field `name`; None notes nothing."""
        if description is not None:
            self.found.append(FieldViolation(field=name, description=description, reason=reason))

    def check(self) -> None:
        """Raise InvalidArgumentError if anything was noted."""
        if self.found:
            raise InvalidArgumentError(*self.found)


class UnauthenticatedError(DomainError):
    """The caller has not shown who it is."""

    reason = "UNAUTHENTICATED"


class PermissionDeniedError(DomainError):
    """The caller may not do this, whether or not the thing exists (AIP-211)."""

    reason = "PERMISSION_DENIED"


class PolicyDeniedError(PermissionDeniedError):
    """The caller's own tenant has said that this may not be. Unlike a stranger, the caller reads what stood in its way.

    Never about anything of another tenant.
    """

    reason = "POLICY_DENIED"

    def __init__(self, resource: str, message: str, *, reason: str, **metadata: str) -> None:
        """Name the resource that may not be used so."""
        super().__init__(message, reason=reason, **metadata)
        self.resource = resource


class NotFoundError(DomainError):
    """There is no such resource."""

    reason = "NOT_FOUND"

    def __init__(self, resource: str) -> None:
        """Name the resource as the caller did."""
        super().__init__(f"{resource} was not found", resource=resource)
        self.resource = resource


class AlreadyExistsError(DomainError):
    """There is one already."""

    reason = "ALREADY_EXISTS"

    def __init__(self, resource: str, message: str | None = None, *, reason: str | None = None) -> None:
        """Name the resource as the caller did."""
        super().__init__(message or f"{resource} already exists", reason=reason, resource=resource)
        self.resource = resource


class EtagMismatchError(DomainError):
    """The caller's copy is not the current one."""

    reason = "ETAG_MISMATCH"


class ConflictError(DomainError):
    """Concurrent transactions won each time; nothing was done."""

    reason = "CONFLICT"
    retry_after = timedelta(milliseconds=100)


class PreconditionError(DomainError):
    """The resource is not in a state that allows this."""

    reason = "FAILED_PRECONDITION"

    def __init__(self, resource: str, message: str, *, reason: str, **metadata: str) -> None:
        """Name the resource, and the state that it would have to be in."""
        super().__init__(message, reason=reason, **metadata)
        self.resource = resource


class TenantSealedError(PreconditionError):
    """The tenant is sealed: nothing of its is opened, and nothing done, for anybody."""

    reason = "TENANT_SEALED"

    def __init__(self, tenant: str) -> None:
        """Name the tenant as a resource."""
        super().__init__(tenant, f"{tenant} is sealed", reason="TENANT_SEALED", state="SEALED")


class KeyRetiredError(PreconditionError):
    """A version of a key was retired: what it sealed does not open, until the version is enabled again."""

    reason = "KEY_VERSION_RETIRED"

    def __init__(self, key: str) -> None:
        """Name the version."""
        super().__init__(key, f"{key} is retired", reason="KEY_VERSION_RETIRED", state="RETIRED")


class HsmTierUnavailableError(PreconditionError):
    """There is no token of the vault that the tenant could have to itself."""

    reason = "HSM_TIER_UNAVAILABLE"

    def __init__(self, resource: str, message: str) -> None:
        """Name what was to have one, and say why it cannot."""
        super().__init__(resource, message, reason="HSM_TIER_UNAVAILABLE")


class QuotaExceededError(DomainError):
    """A limit is reached."""

    reason = "QUOTA_EXCEEDED"

    def __init__(
        self, subject: str, message: str, *, reason: str | None = None, retry_after: timedelta | None = None
    ) -> None:
        """Name whose limit it is; `retry_after` is when a retry would work, where waiting helps."""
        super().__init__(message, reason=reason)
        self.subject = subject
        self.retry_after = retry_after


class UnavailableError(DomainError):
    """Something that the call needs is away. It may be done all the same, where the answer to a COMMIT was lost."""

    reason = "UNAVAILABLE"

    def __init__(
        self, message: str, *, reason: str | None = None, retry_after: timedelta = timedelta(seconds=1)
    ) -> None:
        """Say when to try again."""
        super().__init__(message, reason=reason)
        self.retry_after = retry_after
