"""What a failed call means to whoever typed the command: what to read, what to do next, and the exit code. Pure."""

from collections.abc import Iterable, Mapping
from dataclasses import asdict, dataclass, field, replace
from typing import Any, Final

from control_plane.cli.calls.message import Message

OK, FAULT, USAGE, DENIED, PRECONDITION, QUOTA, UNAVAILABLE, PARTIAL = range(8)
"""Exit codes. Scripts rely on them; `docs/errors.md` says them in words."""

_EXIT_CODES: Final[Mapping[str, int]] = {
    "INVALID_ARGUMENT": USAGE,
    "OUT_OF_RANGE": USAGE,
    "NOT_FOUND": DENIED,
    "PERMISSION_DENIED": DENIED,
    "UNAUTHENTICATED": DENIED,
    "ALREADY_EXISTS": PRECONDITION,
    "FAILED_PRECONDITION": PRECONDITION,
    "ABORTED": PRECONDITION,
    "RESOURCE_EXHAUSTED": QUOTA,
    "UNAVAILABLE": UNAVAILABLE,
    "DEADLINE_EXCEEDED": UNAVAILABLE,
}
# google.rpc.Code, for the statuses inside of operations.
_NAMES: Final = (
    "OK", "CANCELLED", "UNKNOWN", "INVALID_ARGUMENT", "DEADLINE_EXCEEDED", "NOT_FOUND", "ALREADY_EXISTS",
    "PERMISSION_DENIED", "RESOURCE_EXHAUSTED", "FAILED_PRECONDITION", "ABORTED", "OUT_OF_RANGE", "UNIMPLEMENTED",
    "INTERNAL", "UNAVAILABLE", "DATA_LOSS", "UNAUTHENTICATED",
)  # fmt: skip
# Looked up by reason, then by status. `{bulkhead}` is the command as the caller would type it.
_REMEDIES: Final[Mapping[str, str]] = {
    "TENANT_SEALED": "`{bulkhead} tenants unseal ID --reason …` breaks the seal; the tenant is suspended then",
    "TENANT_SUSPENDED": "`{bulkhead} tenants reactivate ID` serves the tenant again",
    "TENANT_NOT_READY": "`{bulkhead} operations list` shows how far its creation is",
    "ROLE_NOT_ALLOWED": "use a token whose role may do this: --token-file FILE",
    "SCOPE_MISSING": "use a token with the scope: `{bulkhead} tokens issue TENANT --subject NAME --scope SCOPE`",
    "TENANT_MISMATCH": "use a token of the tenant that you name",
    "ENROLMENT_CLOSED": "`{bulkhead} tokens issue TENANT --subject NAME --role tenant-admin` enrols another",
    "ROTATION_IN_PROGRESS": "`{bulkhead} operations list` shows how far it is",
    "ESCROW_NOT_PROPOSED": "`{bulkhead} keys escrow enable TENANT …` proposes one, for a day",
    "ESCROW_ON": "`{bulkhead} keys escrow disable TENANT` ends the one that there is",
    "ESCROW_OFF": "without an escrow keys come back from a backup of the vault, and from nowhere else",
    "ESCROW_CONSENT_MISSING": "the tenant's own administrator begins it: --token-file FILE",
    "RECOVERY_IN_PROGRESS": "`{bulkhead} keys escrow recovery NAME` shows how far it is; `cancel` ends it",
    "RECOVERY_ENDED": "`{bulkhead} keys escrow begin TENANT …` begins another",
    "RECOVERY_EXPIRED": "`{bulkhead} keys escrow begin TENANT …` begins another, within a minute",
    "RECOVERY_APPROVED_BEFORE": "it takes another recipient",
    "KEY_POLICY": "make the signing request with a key that is allowed",
    "KEY_VERSION_RETIRED": "`{bulkhead} keys enable NAME` brings the version back that is named",
    "KEY_VERSION_PRIMARY": "`{bulkhead} keys rotate` makes another version first",
    "KEY_VERSION_UNUSABLE": "the tenant has no such version of the key: was it sealed in another cell?",
    "KEY_DESTROY_SCHEDULED": "`{bulkhead} keys restore NAME` takes the destruction back",
    "KEY_DESTROYED": "what it sealed is lost; use another key",
    "KEY_BUILT_IN": "`{bulkhead} keys rotate NAME` replaces it",
    "KEY_PURPOSE": "`{bulkhead} keys list TENANT` shows which keys are for that",
    "KEY_LIMIT_REACHED": "destroy keys that nobody needs: `{bulkhead} keys destroy NAME`",
    "IMPORT_LIMIT_REACHED": "use the imports that are open, or wait three days",
    "IMPORT_JOB_USED": "`{bulkhead} keys import-job TENANT KEY` begins another",
    "IMPORT_JOB_EXPIRED": "`{bulkhead} keys import-job TENANT KEY` begins another",
    "KEY_POLICY_DENIED": "`{bulkhead} keys policy show TENANT` says what is allowed; --reason-code CODE says why",
    "KEY_USE_NEEDS_APPROVAL": "another administrator consents: `{bulkhead} keys policy approve-use NAME`; then again",
    "KEY_POLICY_LOCKED": "the tenant's own administrators change it: --token-file FILE",
    "KEY_POLICY_LOOSENED": "`{bulkhead} keys policy propose TENANT --file FILE`, for another administrator to approve",
    "KEY_POLICY_PROPOSAL_WAITS": "`{bulkhead} keys policy approve TENANT CHANGE`, or reject",
    "KEY_POLICY_UNCONFIRMED": "make the change again: it waits for what goes on",
    "SECOND_PERSON_NEEDED": "have it done by somebody whose token was issued neither by you nor by who issued yours",
    "REQUEST_ID_REUSED": "leave --request-id out, or give each request its own",
    "INVALID_ARGUMENT": "mend what is said above; `--help` says what each option takes",
    "OUT_OF_RANGE": "mend what is said above; `--help` says what each option takes",
    "UNAUTHENTICATED": "the token is missing, wrong, expired or revoked: name a good one with --token-file",
    "PERMISSION_DENIED": "use a token whose role and scopes allow this: --token-file FILE",
    "NOT_FOUND": "check the name; `list` shows what there is",
    "ALREADY_EXISTS": "choose another id, or use the one that is there",
    "ETAG_MISMATCH": "somebody changed it in between: get it again, and repeat with the new etag",
    "ABORTED": "others were faster each time: try again",
    "FAILED_PRECONDITION": "bring it into the state that is said above, and try again",
    "RESOURCE_EXHAUSTED": "a limit is reached: try again later, or have it raised",
    "UNAVAILABLE": "`{bulkhead} status` shows what is away; `{bulkhead} up` starts it",
    "DEADLINE_EXCEEDED": "try again; `{bulkhead} status` shows what is slow or away",
}
_BUG: Final = "this is a fault of ours: the logs in `{directory}/logs` tell more under the request id"


@dataclass(frozen=True, slots=True, kw_only=True)
class Violation:
    """One thing that is wrong: with a field of the request, or with a resource that it names."""

    field: str
    description: str
    reason: str = ""


@dataclass(frozen=True, slots=True, kw_only=True)
class Failure:
    """A refused or failed call, as its caller is told."""

    code: str
    message: str
    reason: str = ""
    metadata: Mapping[str, str] = field(default_factory=dict)
    violations: tuple[Violation, ...] = ()
    request_id: str = ""
    retry_after: str = ""
    # Says more than the remedy of the reason could; empty where that will do.
    hint: str = ""
    # Where what was asked for has been done in part.
    partial: bool = False

    @property
    def exit_code(self) -> int:
        """What the process exits with."""
        return PARTIAL if self.partial else _EXIT_CODES.get(self.code, FAULT)

    @property
    def headline(self) -> str:
        """Say what went wrong, in a line. What the violations say is left to them."""
        reason = f" ({self.reason})" if self.reason not in {"", self.code} else ""
        message = "" if self.violations and self.code == "INVALID_ARGUMENT" else f": {self.message}"
        return f"{self.code}{reason}{message}"

    def next_step(self, *, bulkhead: str, directory: str) -> str:
        """Say what to do, in a sentence. `bulkhead` is the command as the caller types it."""
        remedy = self.hint or _REMEDIES.get(self.reason) or _REMEDIES.get(self.code, _BUG)
        step = remedy.replace("{bulkhead}", bulkhead).replace("{directory}", directory)
        return f"{step} (after {self.retry_after})" if self.retry_after else step


class CallFailedError(Exception):
    """A call failed; commands let it pass, and `command.py` reports it."""

    def __init__(self, failure: Failure) -> None:
        """Carry what the caller is told."""
        super().__init__(f"{failure.code}: {failure.message}")
        self.failure = failure


def failed(code: str, message: str, *, hint: str = "", reason: str = "") -> CallFailedError:
    """Make the error of a call that did not even reach a server."""
    return CallFailedError(Failure(code=code, message=message, hint=hint, reason=reason))


def partially(error: CallFailedError) -> CallFailedError:
    """Make the same error, for a command that has printed a part of what was asked for."""
    return CallFailedError(replace(error.failure, partial=True))


def with_hint(error: CallFailedError, hint: str) -> CallFailedError:
    """Make the same error with a better sentence on what to do."""
    return CallFailedError(replace(error.failure, hint=hint))


def from_status(status: Message) -> Failure:
    """Read a `google.rpc.Status` in its JSON form, whether it ended a call or an operation."""
    details = {str(detail.get("@type", "")).rpartition(".")[2]: detail for detail in status.get("details", [])}
    info = details.get("ErrorInfo", {})
    number = int(status.get("code", 2))
    return Failure(
        code=_NAMES[number] if 0 <= number < len(_NAMES) else "UNKNOWN",
        message=str(status.get("message", "")),
        reason=str(info.get("reason", "")),
        metadata=info.get("metadata", {}),
        violations=tuple(each for each in _violations(details) if each.description != status.get("message")),
        request_id=str(details.get("RequestInfo", {}).get("request_id", "")),
        retry_after=str(details.get("RetryInfo", {}).get("retry_delay", "")),
    )


def _violations(details: Mapping[str, Message]) -> Iterable[Violation]:
    for kind, entries, (subject, reason) in (
        ("BadRequest", "field_violations", ("field", "reason")),
        ("PreconditionFailure", "violations", ("subject", "type")),
        ("QuotaFailure", "violations", ("subject", "quota_id")),
    ):
        for entry in details.get(kind, {}).get(entries, []):
            yield Violation(
                field=str(entry.get(subject, "")),
                description=str(entry.get("description", "")),
                reason=str(entry.get(reason, "")),
            )


def to_json(failure: Failure, *, next_step: str) -> dict[str, Any]:
    """Say the failure as the object that `--json` prints on stderr."""
    return {
        "error": {
            "code": failure.code,
            "reason": failure.reason,
            "message": failure.message,
            "metadata": dict(failure.metadata),
            "violations": [asdict(violation) for violation in failure.violations],
            "request_id": failure.request_id,
            "retry_after": failure.retry_after,
            "next": next_step,
            "exit_code": failure.exit_code,
        }
    }
