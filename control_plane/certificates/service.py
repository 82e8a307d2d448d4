"""Issues, reads and revokes certificates. `pending.py` says how an issue survives a crash at any point."""

import asyncio
import hashlib
from collections.abc import Callable
from dataclasses import dataclass
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

from cryptography import x509

from control_plane.cache.handles import Caches
from control_plane.certificates import pending, store
from control_plane.certificates.model import (
    Asked,
    Certificate,
    Profile,
    State,
    authority_name,
    certificate_name,
    checked_request_id,
    checked_validity,
    object_path,
)
from control_plane.certificates.signing import pem_chain, sign_certificate, term
from control_plane.certificates.signing_request import KEY_POLICY, SigningRequest, read_signing_request
from control_plane.errors import ConflictError, NotFoundError, PreconditionError, Violations
from control_plane.ids import TenantId, new_uuid
from control_plane.keys.authorities import Authority
from control_plane.keys.model import IntegrityError
from control_plane.keys.service import TenantKeys
from control_plane.objects.store import ObjectStore
from control_plane.postgres.database import TenantHandle, TenantTransaction
from control_plane.postgres.effects import Effect
from control_plane.postgres.placement import Placement

# A text never changes. It makes room for others sooner, where nobody asks for it.
_CACHED_FOR: Final = timedelta(hours=24)
# How many may have signed before the one that does: a rotation takes longer than an issue.
_MOST_AUTHORITIES: Final = 3


@dataclass(frozen=True, slots=True, kw_only=True)
class Issued:
    """A certificate, and the text of it."""

    certificate: Certificate
    pem_chain: str


@dataclass(frozen=True, slots=True, kw_only=True)
class _Order:
    """A request in which nothing was found wrong."""

    request: SigningRequest
    validity: timedelta
    profile: str
    request_id: UUID | None
    request_hash: bytes | None


class Certificates:
    """The certificates of all tenants; whose, the handles say. `drafts` is at READ COMMITTED, without an audit hook."""

    def __init__(
        self,
        keys: TenantKeys,
        objects: ObjectStore,
        caches: Caches,
        *,
        clock: Callable[[], datetime] | None = None,
    ) -> None:
        """Sign with the authorities in `keys`; keep the certificates in `objects`, and copies in `caches`."""
        self._keys = keys
        self._objects = objects
        self._caches = caches
        self._leftovers = pending.Leftovers(objects)
        self._clock = clock or (lambda: datetime.now(UTC))

    async def check(self, asked: Asked, drafts: TenantHandle) -> Certificate:
        """Return what `issue` would give, and change nothing. Raises like it."""
        order = await self._order(asked, drafts)
        if isinstance(order, Certificate):
            return order
        draft, _ = await self._signed(order, drafts.placement)
        return draft.certificate

    async def issue(self, asked: Asked, *, drafts: TenantHandle, effects: TenantHandle) -> Issued:
        """Issue a certificate; for a repeated request, return the one that it was answered with.

        Raises:
            InvalidArgumentError: listing everything that is wrong with the request.
            PreconditionError: the request is sound, but the policy forbids its key; or the authority has expired.
            AlreadyExistsError: the request id was used for another request.
            ConflictError, UnavailableError: the same request, with its request id, may work later.
        """
        order = await self._order(asked, drafts)
        if isinstance(order, Certificate):
            return await self.get(order, drafts.placement)
        for _ in range(_MOST_AUTHORITIES):
            draft, authority = await self._signed(order, drafts.placement)
            claimed = await pending.claim(draft.certificate, drafts, clock=self._clock)
            if claimed.id != draft.certificate.id:
                return await self.get(claimed, drafts.placement)
            signs = False
            try:
                # After that: who retires a version looks for what it has signed when it signs no more.
                signs = await self._keys.signs(drafts.placement, authority)
            finally:
                if not signs:
                    await pending.withdraw(draft.certificate, objects=self._objects, drafts=drafts)
            if signs:
                active = await pending.publish(
                    draft.certificate, text=draft.pem_chain, objects=self._objects, drafts=drafts, effects=effects
                )
                return Issued(certificate=active, pem_chain=draft.pem_chain)
        raise ConflictError("the tenant's certificate authority is being replaced")

    async def get(self, certificate: Certificate, placement: Placement) -> Issued:
        """Return the certificate with its text, which is the one that was stored for this row, wherever it is found.

        Raises:
            IntegrityError: the object is missing, or is not what was stored for this row.
        """
        cache = self._caches.of(placement)
        text = await cache.get(certificate.object_path)
        if text is None or not certificate.is_text(text):
            text = await self._stored(certificate, placement)
            await cache.put(certificate.object_path, text, _CACHED_FOR)
        return Issued(certificate=certificate, pem_chain=text.decode())

    async def _stored(self, certificate: Certificate, placement: Placement) -> bytes:
        try:
            text = await self._objects.of(placement).get(certificate.object_path)
        except NotFoundError:
            raise IntegrityError(certificate.object_path) from None
        if not certificate.is_text(text):
            raise IntegrityError(certificate.object_path)
        return text

    async def revoke(self, certificate_id: UUID, *, reason: str, effects: TenantHandle) -> Certificate:
        """Revoke the certificate; a revoked one stays as it is. Works while the objects and the keys are away.

        Raises:
            NotFoundError: there is no such certificate.
        """
        name = certificate_name(effects.placement.tenant_id, certificate_id)
        now = self._clock()

        async def work(tx: TenantTransaction) -> Certificate:
            revoked = await store.revoke(tx, certificate_id, reason=reason, now=now)
            if revoked is not None:
                tx.record(Effect(resource=name, details=pending.audit_details(revoked) | {"reason": reason}))
                return revoked
            tx.unchanged()
            before = await store.find(tx, certificate_id)
            if before is None:
                raise NotFoundError(name)
            return before

        return await effects.run(work)

    async def _order(self, asked: Asked, drafts: TenantHandle) -> _Order | Certificate:
        """Check the request; return the certificate instead that it was answered with before."""
        violations = Violations()
        request_id = checked_request_id(asked, violations)
        request_hash = None if request_id is None else asked.fingerprint
        now = self._clock()

        async def work(tx: TenantTransaction) -> tuple[Certificate | None, Profile | None, list[Certificate]]:
            left = await self._leftovers.give_up(tx, now=now)
            earlier = None if request_id is None else await store.find_by_request(tx, request_id)
            return earlier, await store.find_profile(tx, asked.profile_name), left

        earlier, profile, left = await drafts.run(work)
        await self._leftovers.sweep(left, drafts, now=now)
        if earlier is not None:
            pending.check_same_request(earlier, request_hash, tenant_id=drafts.placement.tenant_id)
            if earlier.is_visible:
                return earlier
        validity = checked_validity(asked, profile, violations)
        policy = await self._keys.certificate_policy(drafts.placement)
        # The caller chooses what this costs.
        request = await asyncio.to_thread(
            read_signing_request, asked.csr_pem, profile, policy=policy, violations=violations
        )
        _check(violations, asked.profile_name, tenant_id=drafts.placement.tenant_id)
        if request is None:
            raise RuntimeError("a signing request without violations could not be read")
        return _Order(
            request=request,
            validity=validity,
            profile=asked.profile_name,
            request_id=request_id,
            request_hash=request_hash,
        )

    async def _signed(self, order: _Order, placement: Placement) -> tuple[Issued, Authority]:
        """Make the certificate, and its row; nothing is stored yet. Say which authority has signed it."""
        authorities = await self._keys.authorities(placement)
        authority = authorities.signing
        now, serial = self._clock(), x509.random_serial_number()
        set_term = term(authority.certificate, serial_number=serial, now=now, validity=order.validity)
        if set_term is None:
            name = authority_name(placement.tenant_id)
            raise PreconditionError(name, "the tenant's certificate authority has expired", reason="AUTHORITY_EXPIRED")
        signed = await asyncio.to_thread(
            sign_certificate, order.request, set_term, authority=authority.certificate, key=authority.private_key
        )
        text = pem_chain(signed, authorities)
        certificate_id = new_uuid()
        certificate = Certificate(
            id=certificate_id,
            state=State.PENDING,
            serial_number=f"{serial:x}",
            subject=signed.subject.rfc4514_string(),
            dns_names=order.request.dns_names,
            profile=order.profile,
            object_path=object_path(certificate_id),
            sha256=hashlib.sha256(text.encode()).digest(),
            create_time=now,
            expire_time=signed.not_valid_after_utc,
            authority_version=authority.version,
            request_id=order.request_id,
            request_hash=order.request_hash,
        )
        return Issued(certificate=certificate, pem_chain=text), authority


def _check(violations: Violations, profile: str, *, tenant_id: TenantId) -> None:
    """Raise PreconditionError where nothing but the key is wrong, and only by the policy; else InvalidArgumentError."""
    found = violations.found
    if found and all(violation.reason in KEY_POLICY for violation in found):
        text = "; ".join(violation.description for violation in found)
        raise PreconditionError(authority_name(tenant_id), text, reason="KEY_POLICY", profile=profile)
    violations.check()
