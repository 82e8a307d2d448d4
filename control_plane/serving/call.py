"""The call that is being served: what the interceptors found out about it, for the servicer and the audit log."""

from collections.abc import Callable
from contextvars import ContextVar
from dataclasses import dataclass, field

from bulkhead.v1 import rules_pb2
from control_plane.ids import new_uuid
from control_plane.postgres.database import Database, Isolation, SystemHandle, TenantHandle
from control_plane.postgres.effects import BeforeCommit
from control_plane.postgres.placement import Placement
from control_plane.serving.principal import Principal

_ISOLATION = {
    rules_pb2.ISOLATION_READ_COMMITTED: Isolation.READ_COMMITTED,
    rules_pb2.ISOLATION_SERIALIZABLE: Isolation.SERIALIZABLE,
}
_current: ContextVar["Call"] = ContextVar("call")


def _new_request_id() -> str:
    return new_uuid().hex


@dataclass(slots=True, kw_only=True)
class Call:
    """One RPC, from its arrival to its answer. Belongs to the task that serves it."""

    method: str
    rule: rules_pb2.Rule
    database: Database
    # Makes the audit log's entries; runs inside the transaction of the effect.
    recorder: Callable[["Call"], BeforeCommit]
    # The server's own, so that no caller can choose or repeat one; that of an internal service, which has made it so.
    request_id: str = field(default_factory=_new_request_id)
    peer: str = ""
    # Set by authentication; stays None for unauthenticated methods.
    principal: Principal | None = None
    # The tenant that the request names, as it named it. Set by authorisation, like what follows.
    tenant_name: str = ""
    placement: Placement | None = None
    is_sealed: bool = False

    def tenant(self) -> TenantHandle:
        """Open the tenant that the rule's field names, at the rule's isolation level, audited as the rule says.

        Of a sealed tenant that is its audit log and nothing else, with the rights of the log's own sealer: the tenant's
        role does not get in, and a strict one's password comes from a key that is not opened.
        """
        if self.placement is None or self.rule.isolation not in _ISOLATION:
            message = f"the rule of {self.method} opens no tenant transaction"
            raise RuntimeError(message)
        if self.is_sealed:
            return self.database.sealer(self.placement)
        return self.database.tenant(
            self.placement, isolation=_ISOLATION[self.rule.isolation], before_commit=self._before_commit()
        )

    def require_placement(self) -> Placement:
        """Return where the tenant is that the rule's field names; RuntimeError for a rule that names none."""
        if self.placement is None:
            message = f"the rule of {self.method} names no tenant"
            raise RuntimeError(message)
        return self.placement

    def require_principal(self) -> Principal:
        """Return who calls; RuntimeError for a rule that lets in whoever shows no credential."""
        if self.principal is None:
            message = f"the rule of {self.method} lets in whoever shows no credential"
            raise RuntimeError(message)
        return self.principal

    def system(self) -> SystemHandle:
        """Open the registry, audited as the rule says."""
        return self.database.system(before_commit=self._before_commit())

    @property
    def actor(self) -> str:
        """Who calls, as the audit log names it."""
        return str(self.principal) if self.principal else "anyone"

    def _before_commit(self) -> BeforeCommit | None:
        return self.recorder(self) if self.rule.audit == rules_pb2.AUDIT_EFFECTS else None


def current_call() -> Call:
    """Return the call that this task serves. Raises LookupError outside of one."""
    return _current.get()


def begin_call(call: Call) -> None:
    """Make `call` the one that this task serves. For the outermost interceptor."""
    _current.set(call)
