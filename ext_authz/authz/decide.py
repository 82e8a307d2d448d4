"""What becomes of a request. Pure: the request, its evidence, the index and the time go in; one decision comes out.

Every claim that is present must name one tenant, and a token that this tenant's own key signed must be among them; a
token alone names nobody. Until that is proven, whoever asks is a stranger and reads the one answer for strangers,
whatever is wrong: absent, foreign, suspended and malformed look alike. From there on it is the tenant's own caller, who
is told what is wrong.
"""

from dataclasses import dataclass
from datetime import datetime, timedelta
from typing import Final

from control_plane.serving.principal import SCOPED
from ext_authz.authz.certificate import CertificateClaim
from ext_authz.authz.methods import Method
from ext_authz.authz.request import Asked
from ext_authz.authz.tokens import Credential, Proven, Unproven
from ext_authz.policies.model import Index, State, TenantPolicy

# A control plane whose clock is further ahead than this vouches for nothing.
_CLOCKS_APART: Final = timedelta(seconds=60)


@dataclass(frozen=True, slots=True, kw_only=True)
class Stranger:
    """The one answer for strangers. The rest is for the records."""

    reason: str
    tenants: tuple[str, ...] = ()
    actor: str = "anonymous"


@dataclass(frozen=True, slots=True, kw_only=True)
class Refused:
    """A reason that the tenant's own caller, or anybody at all, is told."""

    status: int
    code: str
    detail: str
    retry_after_s: int | None = None
    holder: Proven | None = None
    """Whose own caller it is."""

    @property
    def is_denial(self) -> bool:
        """Whether the caller may not, rather than cannot now."""
        return self.status in {401, 403}


@dataclass(frozen=True, slots=True, kw_only=True)
class Proceed:
    """It goes on, as far as the tenant's rate allows."""

    policy: TenantPolicy
    method: Method
    credential: Credential


Decision = Stranger | Refused | Proceed


@dataclass(frozen=True, slots=True, kw_only=True)
class Evidence:
    """What a request's credentials, and its words, turn out to mean by one index."""

    token: Proven | Unproven
    certificate: CertificateClaim | None
    """None where none is shown, or one that names no tenant."""
    method: Method | None


def decide(asked: Asked, evidence: Evidence, index: Index, *, now: datetime) -> Decision:
    """Decide by this index and at this time."""
    if index.as_of is None:
        return Refused(status=503, code="POLICY_MISSING", detail="no policies have arrived here yet", retry_after_s=1)
    token = evidence.token
    if isinstance(token, Unproven):
        if token.is_key_unknown and asked.epoch > index.revision and not asked.fault:
            return _behind()
        reason = token.cause if token.tenants else asked.fault or token.cause
        return Stranger(reason=reason, tenants=token.tenants, actor=token.actor)
    policy = token.policy
    fault = asked.fault or _disagreement(asked, evidence, policy, index=index, now=now)
    if fault:
        return Stranger(reason=fault, tenants=(policy.tenant_id,), actor=token.credential.actor)
    return _withheld(asked, token, index.as_of, now=now) or _permitted(evidence.method, token)


def _disagreement(asked: Asked, evidence: Evidence, policy: TenantPolicy, *, index: Index, now: datetime) -> str:
    """Say why not everything that is claimed is claimed of this tenant; empty where it is."""
    if not asked.names_tenant:
        return "TENANT_NOT_NAMED"
    owners = [index.by_host.get(host) for host in asked.hosts.values()]
    named = {*asked.tenant_ids.values(), *(owner.tenant_id if owner is not None else "" for owner in owners)}
    if named - {policy.tenant_id}:
        return "TENANT_MISMATCH"
    method = evidence.method
    if method is not None and method.tenant_field and method.tenant_field in asked.query_names:
        # It would say a second time what the path says already.
        return "TENANT_IN_QUERY"
    return _certificate_fault(evidence.certificate, policy, now=now) if asked.certificate else ""


def _certificate_fault(claim: CertificateClaim | None, policy: TenantPolicy, *, now: datetime) -> str:
    if claim is None:
        return "CERTIFICATE_REFUSED"
    if claim.tenant_id != policy.tenant_id:
        return "TENANT_MISMATCH"
    # Envoy looked at it when the connection was made.
    return "CERTIFICATE_EXPIRED" if now >= claim.expire_time else ""


def _withheld(asked: Asked, token: Proven, as_of: datetime, *, now: datetime) -> Refused | None:
    """Refuse what no caller of the tenant may have now. Nothing is concluded from a policy that may be an old one."""
    policy = token.policy
    if token.fault:
        detail = "the token has expired" if token.fault == "TOKEN_EXPIRED" else "the token was revoked"
        return Refused(status=401, code=token.fault, detail=detail, holder=token)
    if asked.epoch > policy.revision:
        return _behind(token)
    if not now - policy.max_age <= as_of <= now + _CLOCKS_APART:
        detail = "there has been no news of the tenant's policy for too long"
        return Refused(status=503, code="POLICY_STALE", detail=detail, retry_after_s=1, holder=token)
    if policy.state is not State.ACTIVE:
        return Refused(status=403, code="TENANT_SUSPENDED", detail="the tenant is suspended", holder=token)
    return None


def _permitted(method: Method | None, token: Proven) -> Decision:
    credential = token.credential
    if method is None:
        return Refused(status=403, code="METHOD_UNKNOWN", detail="no method is served there", holder=token)
    if credential.role not in method.roles:
        return Refused(status=403, code="ROLE_NOT_ALLOWED", detail="the role may not call this method", holder=token)
    if method.scope and credential.role in SCOPED and method.scope not in credential.scopes:
        detail = f"the token lacks the scope {method.scope}"
        return Refused(status=403, code="SCOPE_MISSING", detail=detail, holder=token)
    return Proceed(policy=token.policy, method=method, credential=credential)


def _behind(holder: Proven | None = None) -> Refused:
    detail = "the routes are newer than what this worker knows"
    return Refused(status=503, code="EPOCH_BEHIND", detail=detail, retry_after_s=1, holder=holder)
