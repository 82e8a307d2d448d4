"""What is asked of the walls, what comes of it, and how that is signed. Pure.

An attestation is a DSSE envelope, version 1 (https://github.com/secure-systems-lab/dsse): the signature is Ed25519 over
the pre-authentication encoding of the payload and its type. The payload is canonical JSON (RFC 8785)::

    attestation  its id                      probes       name, promise, outcome, detail and duration_ms of each
    tenant       the id; null for a cell     passed       whether every probe passed
    tenant_uid   the uid; null for a cell    create_time  when the probes began, RFC 3339 in UTC
    cell         the cell's id               duration_ms  how long all of them took
    hsm_backed   whether a hardware security module holds the key
"""

from collections.abc import Sequence
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from enum import StrEnum
from typing import Final
from uuid import UUID

import rfc8785

PAYLOAD_TYPE: Final = "application/vnd.bulkhead.isolation+json"
_MOST_TOLD: Final = 20


class Outcome(StrEnum):
    """How a probe ended."""

    PASSED = "PASSED"
    FAILED = "FAILED"
    UNKNOWN = "UNKNOWN"
    """What is asked could not be reached. The isolation is then not attested, and not in doubt either."""


class WallDownError(Exception):
    """A wall does not do what it is there for. The text says what was seen, and names no other tenant."""


def check(found: Sequence[str]) -> None:
    """Raise WallDownError where something was found; it tells the first of it."""
    if found:
        more = [f"and {len(found) - _MOST_TOLD} more"] if len(found) > _MOST_TOLD else []
        raise WallDownError("; ".join([*found[:_MOST_TOLD], *more]))


@dataclass(frozen=True, slots=True, kw_only=True)
class Result:
    """What one probe has found."""

    name: str
    """The wall, then the question, such as `database.role.foreign_tables`. Stable."""
    promise: str
    """What the wall is to do, in a sentence."""
    outcome: Outcome
    detail: str
    """What was seen."""
    duration: timedelta


@dataclass(frozen=True, slots=True, kw_only=True)
class Subject:
    """Whose isolation it is: a tenant's, or everybody's in a cell."""

    cell: str
    tenant_id: str | None = None
    tenant_uid: UUID | None = None


@dataclass(frozen=True, slots=True, kw_only=True)
class Report:
    """What a verification has found, before it is signed."""

    id: UUID
    subject: Subject
    results: Sequence[Result]
    create_time: datetime
    duration: timedelta
    hsm_backed: bool

    @property
    def passed(self) -> bool:
        """Whether every probe passed."""
        return all(result.outcome is Outcome.PASSED for result in self.results)

    @property
    def failed(self) -> list[str]:
        """Name the probes that failed."""
        return [result.name for result in self.results if result.outcome is Outcome.FAILED]

    def payload(self) -> bytes:
        """Return what is signed."""
        subject = self.subject
        return rfc8785.dumps(
            {
                "attestation": str(self.id),
                "tenant": subject.tenant_id,
                "tenant_uid": str(subject.tenant_uid) if subject.tenant_uid else None,
                "cell": subject.cell,
                "hsm_backed": self.hsm_backed,
                "passed": self.passed,
                "create_time": self.create_time.astimezone(UTC).isoformat(timespec="milliseconds"),
                "duration_ms": _milliseconds(self.duration),
                "probes": [
                    {
                        "name": result.name,
                        "promise": result.promise,
                        "outcome": result.outcome.value,
                        "detail": result.detail,
                        "duration_ms": _milliseconds(result.duration),
                    }
                    for result in self.results
                ],
            }
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Attestation:
    """A report as it was signed."""

    id: UUID
    tenant_uid: UUID | None
    passed: bool
    create_time: datetime
    payload: bytes
    signature: bytes
    key_id: UUID


def _milliseconds(duration: timedelta) -> int:
    return round(duration / timedelta(milliseconds=1))
