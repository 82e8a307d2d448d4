"""Envoy's `envoy.service.auth.v3.Authorization`: a Check for each request. A denial is an answer, an error is none.

Everything is in memory, and so is, most of the time, what the tenant's rates have left; that is asked last. What was
decided before is decided again when an index came meanwhile: a suspension that is applied while Valkey is asked holds
for this request too.
"""

import asyncio
import secrets
from collections.abc import Callable, Collection
from datetime import UTC, datetime
from typing import Any, Final

import grpc
import structlog
from google.protobuf.message import DecodeError

from bulkhead.envoy.v3 import check_pb2
from bulkhead.v1 import certificates_pb2
from ext_authz.authz import answers
from ext_authz.authz.certificate import CertificateReader
from ext_authz.authz.context import Contexts
from ext_authz.authz.decide import Decision, Evidence, Proceed, Refused, Stranger, decide
from ext_authz.authz.leases import Leases
from ext_authz.authz.methods import ExposedMethods, Method
from ext_authz.authz.request import Asked, UndecidableError, read_request
from ext_authz.authz.tokens import TokenReader
from ext_authz.budgets.counter import BudgetUnavailableError
from ext_authz.budgets.reserves import Budgets
from ext_authz.policies.model import Index
from ext_authz.reports.model import Denial, Usage

_SERVICE: Final = "envoy.service.auth.v3.Authorization"
_NO_RATE: Final = Refused(
    status=503, code="RATE_UNAVAILABLE", detail="the tenant's rate cannot be counted now", retry_after_s=1
)

_log: Final = structlog.get_logger("authz")


class CheckServicer:
    """Decides Envoy's Checks by one index, which is swapped whole."""

    def __init__(
        self,
        *,
        domain: str,
        shared_hosts: Collection[str],
        context_key: bytes,
        budgets: Budgets,
        denied: Callable[[Denial], None],
        used: Callable[[Usage], None],
        now: Callable[[], datetime] = lambda: datetime.now(UTC),
    ) -> None:
        """Decide for the platform's `domain`; tell `denied` and `used` what was decided."""
        self._shared_hosts = frozenset(host.lower() for host in shared_hosts)
        self._budgets = budgets
        self._denied = denied
        self._used = used
        self._now = now
        self._methods = ExposedMethods((certificates_pb2.DESCRIPTOR,))
        self._contexts = Contexts(context_key, every_scope=self._methods.scopes)
        self._tokens = TokenReader()
        self._leases = Leases(secrets.randbits(62))
        self._certificates = CertificateReader()
        self._index = Index(domain=domain)
        # Checks that began since the last `settled`, and those from before it that still run.
        self._begun = _Checks()
        self._older: set[_Checks] = set()

    @property
    def index(self) -> Index:
        """What is decided by now."""
        return self._index

    def use(self, index: Index) -> None:
        """Decide by this index from now on, also what is being decided."""
        self._index = index

    async def settled(self) -> None:
        """Return when all Checks that began before now have ended."""
        self._older.add(self._begun)
        self._begun = _Checks()
        for checks in tuple(self._older):
            await checks.ended()
            self._older.discard(checks)

    def add_to(self, server: grpc.aio.Server) -> None:
        """Serve Check on that server."""
        # Bytes on both sides: what cannot be read is ours to log, and some answers are always the same.
        handlers: dict[str, grpc.RpcMethodHandler[bytes, bytes]] = {
            "Check": grpc.unary_unary_rpc_method_handler(self.Check)
        }
        server.add_generic_rpc_handlers((grpc.method_handlers_generic_handler(_SERVICE, handlers),))

    async def Check(self, request: bytes, context: grpc.aio.ServicerContext[Any, Any]) -> bytes:
        """Answer one Check; where no answer can be given, fail, and Envoy says 503."""
        begun = self._begun
        begun.running += 1
        try:
            return await self._answer(check_pb2.CheckRequest.FromString(request))
        except Exception as error:
            if isinstance(error, DecodeError | UndecidableError):
                _log.warning("check_undecidable", reason=str(error))
            else:
                _log.exception("check_failed")
            await context.abort(grpc.StatusCode.INTERNAL, "this cannot be decided")
            raise
        finally:
            begun.end_one()

    async def _answer(self, request: check_pb2.CheckRequest) -> bytes:
        asked = read_request(request, self._shared_hosts)
        method = self._methods.find(asked.wire, asked.http_method, asked.path)
        index = self._index
        decision = self._decide(asked, method)
        if not isinstance(decision, Proceed):
            return self._refuse(asked, method, decision)
        wish = self._leases.wish(asked, decision, now=self._now())
        policy, cost = decision.policy, decision.method.cost
        for unspent in wish.unspent:
            self._budgets.give_back_lease(policy, unspent, cost=cost)
        try:
            taken = await self._budgets.take(policy, cost=cost, calls=1 + wish.calls, request_id=asked.request_id)
        except BudgetUnavailableError:
            return answers.refusal(asked, _NO_RATE)
        if self._index is not index:
            decision = self._decide(asked, method)
            if not isinstance(decision, Proceed):
                self._budgets.give_back(taken, taken.calls)
                return self._refuse(asked, method, decision)
        self._used(_usage(decision, admitted=taken.allowed))
        now = self._now()
        if not taken.allowed:
            held = self._leases.hold(asked, decision, wish, taken=taken, now=now)
            return answers.limited(asked, taken=taken, held=held)
        signed = self._contexts.signed(decision, remaining=taken.remaining, now=now)
        as_of = self._index.as_of or now
        lease = self._leases.grant(asked, decision, wish, taken=taken, context=signed, as_of=as_of, now=now)
        if not lease:
            self._budgets.give_back(taken, taken.calls - 1)
        return answers.admitted(signed, taken=taken, lease=lease)

    def _decide(self, asked: Asked, method: Method | None) -> Decision:
        index, now = self._index, self._now()
        evidence = Evidence(
            token=self._tokens.read(asked.token, index, now=now),
            certificate=self._certificates.read(asked.certificate) if asked.certificate else None,
            method=method,
        )
        return decide(asked, evidence, index, now=now)

    def _refuse(self, asked: Asked, method: Method | None, decision: Stranger | Refused) -> bytes:
        if isinstance(decision, Stranger):
            self._record(asked, method, decision)
            repeated = self._leases.repeat(asked, now=self._now())
            return answers.stranger(repeated) if repeated else answers.STRANGER
        if decision.holder is not None and decision.is_denial:
            holder = decision.holder
            told = Stranger(reason=decision.code, tenants=(holder.policy.tenant_id,), actor=holder.credential.actor)
            self._record(asked, method, told)
        return answers.refusal(asked, decision)

    def _record(self, asked: Asked, method: Method | None, refused: Stranger) -> None:
        for tenant_id in refused.tenants or ("",):
            self._denied(
                Denial(
                    tenant_id=tenant_id,
                    actor=refused.actor,
                    method=method.path if method is not None else "",
                    resource=_resource(asked, tenant_id),
                    reason=refused.reason,
                    peer=asked.peer,
                    request_id=asked.request_id,
                    count=1 + asked.repeated,
                )
            )


class _Checks:
    """Some Checks that run."""

    def __init__(self) -> None:
        self.running = 0
        self._ended: asyncio.Future[None] | None = None

    def end_one(self) -> None:
        self.running -= 1
        if self.running == 0 and self._ended is not None and not self._ended.done():
            self._ended.set_result(None)

    async def ended(self) -> None:
        """Return when none of them runs any more; none may begin among them."""
        if self.running:
            self._ended = self._ended or asyncio.get_running_loop().create_future()
            await asyncio.shield(self._ended)


def _usage(decision: Proceed, *, admitted: bool) -> Usage:
    method = decision.method
    return Usage(
        tenant_uid=decision.policy.uid,
        method=method.path,
        cost=method.cost,
        admitted=admitted,
        credential=decision.credential.claims.token_id,
        lease_class=method.lease_class,
    )


def _resource(asked: Asked, tenant_id: str) -> str:
    """Name the tenant that was asked for, in the caller's own words: whose a host is, they may not know."""
    named = next(iter(asked.tenant_ids.values()), tenant_id)
    return f"tenants/{named}" if named else ""
