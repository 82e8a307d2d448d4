"""Signs how far each tenant's log has got, with the tenant's own key for it, a moment after it was sealed.

A reconciler beside the sealer: it may be killed, repeated, or run beside others at any moment, and signs what is there.
It signs nothing that does not follow from what was signed before: the links since then are recomputed, and a log that
does not hold stays unsigned from there on. What it signed itself it also remembers, for as long as the process lives.
"""

import asyncio
from collections.abc import Callable
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Final, NamedTuple
from uuid import UUID

import structlog

from control_plane.audit import store
from control_plane.audit.model import Chain, Seal
from control_plane.audit.publication import Publication
from control_plane.errors import ConflictError, TenantSealedError, UnavailableError
from control_plane.keys.material import AuditSigner
from control_plane.keys.model import IntegrityError, MissingKeyError
from control_plane.keys.service import TenantKeys
from control_plane.postgres.database import Database, TenantTransaction
from control_plane.postgres.placement import Placement
from control_plane.proofs.audit_log import AuditKey, Checkpoint, ForgedError, SignedCheckpoint

# At most one checkpoint of a tenant in this time, and no entry without one for much longer.
_ROUND: Final = timedelta(seconds=1)
# Entries that one checkpoint adds at most, a page of them at a time: hashing is Python, some 40 µs an entry.
_BATCH: Final = 1000
_PAGE: Final = 200

_log: Final = structlog.get_logger("audit.notary")


class RewrittenError(Exception):
    """A log is not what was signed, or does not follow from it. The text says where."""


class _Signed(NamedTuple):
    """Up to where a log is signed."""

    sequence: int
    head: bytes


_UNSIGNED: Final = _Signed(0, b"")


class Notary:
    """Signs the logs of all tenants of a cell, while `run` runs; stores the checkpoints as the role `csm_sealer`."""

    def __init__(
        self,
        database: Database,
        keys: TenantKeys,
        *,
        publication: Publication | None,
        now: Callable[[], datetime] | None = None,
    ) -> None:
        """Sign with `keys`. Where `publication` is None, another process publishes them, and this one waits for it."""
        self._database = database
        self._keys = keys
        self._publication = publication
        self._now = now or (lambda: datetime.now(UTC))
        self._waiting: dict[UUID, Placement] = {}
        # What this process has signed last of each log: who takes the newest checkpoints away is found out.
        self._signed: dict[UUID, _Signed] = {}

    def touch(self, placement: Placement) -> None:
        """Have a look at this tenant's log soon. What is sealed while the tenant is, waits until it is unsealed."""
        self._waiting[placement.uid] = placement

    async def run(self) -> None:
        """Sign until cancelled. Outlives every fault, and logs it."""
        while True:
            await self.round()
            await asyncio.sleep(_ROUND.total_seconds())

    async def round(self) -> None:
        """Sign what was touched."""
        touched, self._waiting = self._waiting, {}
        for placement in touched.values():
            if not await self._try(placement):
                self._waiting.setdefault(placement.uid, placement)

    async def sign(self, placement: Placement) -> None:
        """Sign one tenant's log up to its last link, if that is not signed yet.

        Raises:
            ConflictError, UnavailableError: for the moment; the same call again may do it.
            IntegrityError: the key, or what is published of it, was changed in the database.
            MissingKeyError: there is no key, and none is made here.
            RewrittenError: the log does not follow from what was signed.
            TenantSealedError: the tenant is sealed.
        """
        is_whole = False
        while not is_whole:
            stored, seal = await self._database.sealer(placement).run(_state)
            self._check_remembered(placement, stored)
            if seal is None or (stored is not None and stored.sequence >= seal.sequence):
                return
            last = _UNSIGNED if stored is None else await self._believed(placement, stored)
            # Before the key is looked up, so that a newer one cannot have begun before.
            now = self._now()
            signer = await self._signer(placement, now)
            is_whole, self._signed[placement.uid] = await self._database.sealer(placement).run(
                partial(_extend, last=last, signer=signer, now=now)
            )

    async def _try(self, placement: Placement) -> bool:
        """Return whether there is nothing left to do, for now or for anybody."""
        try:
            await self.sign(placement)
        except TenantSealedError:
            _log.info("checkpoint_waits_for_unseal", tenant=placement.tenant_id)
        except (ConflictError, UnavailableError) as error:
            _log.info("checkpoint_put_off", tenant=placement.tenant_id, reason=error.code)
            return False
        except RewrittenError as error:
            _log.error("audit_log_rewritten", tenant=placement.tenant_id, detail=str(error))
        except MissingKeyError as error:
            _log.warning("checkpoint_without_key", tenant=placement.tenant_id, detail=str(error))
        except Exception:  # noqa: BLE001 one tenant's broken log must not stop the others'
            _log.exception("checkpoint_failed", tenant=placement.tenant_id)
        return True

    def _check_remembered(self, placement: Placement, stored: SignedCheckpoint | None) -> None:
        """Raise RewrittenError where the newest checkpoint is not what this process saw there."""
        known = self._signed.get(placement.uid, _UNSIGNED)
        if (0 if stored is None else stored.sequence) < known.sequence:
            raise RewrittenError(f"the checkpoint at {known.sequence} is gone")
        if stored is not None and stored.sequence == known.sequence and _read(stored).head != known.head:
            raise RewrittenError(f"the checkpoint at {known.sequence} was replaced")

    async def _believed(self, placement: Placement, stored: SignedCheckpoint) -> _Signed:
        """Return what a checkpoint says, if the tenant's key has signed it, whatever is published of that."""
        said = _read(stored)
        signer = await self._keys.audit_signer(placement, version=said.key_version)
        public = signer.private_key.public_key().public_bytes_raw()
        is_own = said.tenant_uid == placement.uid and said.sequence == stored.sequence
        if not is_own or not stored.is_signed_by(public):
            raise RewrittenError(f"the checkpoint at {stored.sequence} was not signed by the log's key")
        return _Signed(said.sequence, said.head)

    async def _signer(self, placement: Placement, now: datetime) -> AuditSigner:
        """Return the newest key, if it is published, and its time has begun."""
        published = await self._published(placement, now)
        signer = await self._keys.audit_signer(placement)
        if published.version != signer.version:
            raise UnavailableError("the key was just rotated", reason="KEY_NOT_PUBLISHED")
        if published.key_id != signer.key_id or published.public != signer.private_key.public_key().public_bytes_raw():
            raise IntegrityError("a published key of an audit log")
        if now < published.start_time:
            raise UnavailableError("this clock is behind the one that the key was published by", reason="CLOCK_BEHIND")
        return signer

    async def _published(self, placement: Placement, now: datetime) -> AuditKey:
        if self._publication is not None:
            return await self._publication.ensure(placement, now=now)
        published = await self._database.system().run(lambda tx: store.published_keys(tx, placement.uid))
        if not published:
            raise MissingKeyError(f"a published key for the audit log of tenant {placement.uid}")
        # Not who vouches for it: that it is the vault's key is all that matters here.
        try:
            return AuditKey.read(published[-1].payload)
        except ForgedError as error:
            raise IntegrityError("a published key of an audit log") from error


async def _state(tx: TenantTransaction) -> tuple[SignedCheckpoint | None, Seal | None]:
    if not await store.keeps_checkpoints(tx):
        raise UnavailableError("the tenant's tables are of an older release", reason="SCHEMA_TOO_OLD")
    return await store.last_checkpoint(tx), await store.last_seal(tx)


def _read(stored: SignedCheckpoint) -> Checkpoint:
    try:
        return Checkpoint.read(stored.payload)
    except ForgedError as error:
        raise RewrittenError(f"the checkpoint at {stored.sequence} is none") from error


async def _extend(tx: TenantTransaction, *, last: _Signed, signer: AuditSigner, now: datetime) -> tuple[bool, _Signed]:
    """Sign what follows from `last`, as far as one checkpoint goes; return whether that is all, and up to where."""
    placement = tx.placement
    seal = await store.seal_at(tx, last.sequence) if last.sequence else None
    if last.sequence and (seal is None or seal.hash != last.head):
        raise RewrittenError(f"the entry at {last.sequence} is not the one that was signed")
    chain, is_whole = Chain(placement.uid, seal), False
    while not is_whole and chain.sequence < last.sequence + _BATCH:
        page = await store.sealed_page(tx, chain.sequence, limit=_PAGE)
        is_whole = len(page) < _PAGE
        for each, record in page:
            expected = chain.sequence + 1
            if not chain.accepts(each, record):
                raise RewrittenError(f"the chain is broken at {expected}")
    if chain.sequence == last.sequence:
        raise RewrittenError(f"the entries after {last.sequence} are gone")
    checkpoint = Checkpoint(
        tenant=f"tenants/{placement.tenant_id}",
        tenant_uid=placement.uid,
        sequence=chain.sequence,
        head=chain.head,
        time=now,
        key_version=signer.version,
        key_id=signer.key_id,
    )
    await store.insert_checkpoint(tx, checkpoint.signed(signer.sign))
    return is_whole, _Signed(chain.sequence, chain.head)
