"""Signs how far each tenant's log has got, with the tenant's own key for it, a moment after it was sealed.

A reconciler beside the sealer: it may be killed, repeated, or run beside others at any moment, and signs what is there.
It signs nothing that does not follow from what was signed before: the links since then are recomputed, and a log that
does not hold stays unsigned from there on. What it signed itself it also remembers, for as long as the process lives.
"""

import asyncio
import time
from collections.abc import Callable
from dataclasses import dataclass, field, replace
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
# What could not be signed for the moment is tried again, ever more seldom.
_LONGEST_WAIT: Final = timedelta(minutes=1)
# Entries that one checkpoint adds at most, a page of them at a time: hashing is Python, some 40 µs an entry.
_BATCH: Final = 1000
_PAGE: Final = 200

_log: Final = structlog.get_logger("audit.notary")


class _UnopenedError(Exception):
    """A checkpoint was signed by a version of the key that is not known here yet."""

    def __init__(self, version: int) -> None:
        """Name the version."""
        super().__init__(f"version {version}")
        self.version = version


class RewrittenError(Exception):
    """A log is not what was signed, or does not follow from it. The text says where."""


@dataclass(frozen=True, slots=True, kw_only=True)
class _Waiting:
    placement: Placement
    due_s: float
    wait_s: float


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
        monotonic_s: Callable[[], float] | None = None,
    ) -> None:
        """Sign with `keys`. Where `publication` is None, another process publishes them, and this one waits for it."""
        self._database = database
        self._keys = keys
        self._publication = publication
        self._now = now or (lambda: datetime.now(UTC))
        self._monotonic_s = monotonic_s or time.monotonic
        self._waiting: dict[UUID, _Waiting] = {}
        self._logs: dict[UUID, _Log] = {}

    def touch(self, placement: Placement) -> None:
        """Have a look at this tenant's log soon. What is sealed while the tenant is, waits until it is unsealed."""
        self._waiting[placement.uid] = _Waiting(
            placement=placement, due_s=self._monotonic_s(), wait_s=_ROUND.total_seconds()
        )

    async def run(self) -> None:
        """Sign until cancelled. Outlives every fault, and logs it."""
        while True:
            await self.round()
            await asyncio.sleep(_ROUND.total_seconds())

    async def round(self) -> None:
        """Sign what was touched, and what was put off and is due again."""
        now_s = self._monotonic_s()
        for waiting in [waiting for waiting in self._waiting.values() if waiting.due_s <= now_s]:
            uid = waiting.placement.uid
            del self._waiting[uid]
            if not await self._try(waiting.placement):
                wait_s = min(2 * waiting.wait_s, _LONGEST_WAIT.total_seconds())
                # Unless it was touched meanwhile.
                self._waiting.setdefault(uid, replace(waiting, due_s=now_s + waiting.wait_s, wait_s=wait_s))

    async def sign(self, placement: Placement) -> None:
        """Sign one tenant's log up to its last link, if that is not signed yet.

        Raises:
            ConflictError, UnavailableError: for the moment; the same call again may do it.
            IntegrityError: the key, or what is published of it, was changed in the database.
            MissingKeyError: there is no key, and none is made here.
            RewrittenError: the log does not follow from what was signed.
            TenantSealedError: the tenant is sealed.
        """
        if placement.uid not in self._logs and not await self._database.sealer(placement).run(_is_behind):
            return
        log, is_whole = self._logs.setdefault(placement.uid, _Log()), False
        while not is_whole:
            # Before the key is looked up, so that a newer one cannot have begun before.
            now = self._now()
            signer = await self._signer(placement, log, now=now)
            try:
                is_whole, log.last = await self._database.sealer(placement).run(
                    partial(_extend, log=log, signer=signer, now=now)
                )
            except _UnopenedError as error:
                older = await self._keys.audit_signer(placement, version=error.version)
                log.publics[error.version] = older.public

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

    async def _signer(self, placement: Placement, log: "_Log", *, now: datetime) -> AuditSigner:
        """Return the newest key, if it is published, and its time has begun."""
        signer = await self._keys.audit_signer(placement) if log.published else None
        if signer is None or log.published is None or log.published.version != signer.version:
            log.published = await self._published(placement, now)
            signer = await self._keys.audit_signer(placement)
        if log.published.version != signer.version:
            raise UnavailableError("the key was just rotated", reason="KEY_NOT_PUBLISHED")
        if (log.published.key_id, log.published.public) != (signer.key_id, signer.public):
            raise IntegrityError("a published key of an audit log")
        if now < log.published.start_time:
            raise UnavailableError("this clock is behind the one that the key was published by", reason="CLOCK_BEHIND")
        log.publics[signer.version] = log.published.public
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


@dataclass(slots=True, kw_only=True)
class _Log:
    """What this process knows of a log that it has signed, or tried to."""

    last: _Signed = _UNSIGNED
    """Up to where: who takes the newest checkpoints away is found out."""
    published: AuditKey | None = None
    publics: dict[int, bytes] = field(default_factory=dict)
    """The public halves of keys that were opened, by version."""

    def check(self, stored: SignedCheckpoint | None) -> None:
        """Raise RewrittenError where the newest checkpoint is not what was seen there."""
        if (0 if stored is None else stored.sequence) < self.last.sequence:
            raise RewrittenError(f"the checkpoint at {self.last.sequence} is gone")
        if stored is not None and stored.sequence == self.last.sequence and _read(stored).head != self.last.head:
            raise RewrittenError(f"the checkpoint at {self.last.sequence} was replaced")

    def believed(self, stored: SignedCheckpoint, *, tenant_uid: UUID) -> _Signed:
        """Return what a checkpoint says, if the tenant's key has signed it, whatever is published of that."""
        said = _read(stored)
        public = self.publics.get(said.key_version)
        if public is None:
            raise _UnopenedError(said.key_version)
        if (said.tenant_uid, said.sequence) != (tenant_uid, stored.sequence) or not stored.is_signed_by(public):
            raise RewrittenError(f"the checkpoint at {stored.sequence} was not signed by the log's key")
        return _Signed(said.sequence, said.head)


def _read(stored: SignedCheckpoint) -> Checkpoint:
    try:
        return Checkpoint.read(stored.payload)
    except ForgedError as error:
        raise RewrittenError(f"the checkpoint at {stored.sequence} is none") from error


async def _state(tx: TenantTransaction) -> tuple[SignedCheckpoint | None, Seal | None]:
    if not await store.keeps_checkpoints(tx):
        raise UnavailableError("the tenant's tables are of an older release", reason="SCHEMA_TOO_OLD")
    # In this order: what is signed by now was sealed before.
    return await store.last_checkpoint(tx), await store.last_seal(tx)


async def _is_behind(tx: TenantTransaction) -> bool:
    stored, seal = await _state(tx)
    return seal is not None and (stored is None or stored.sequence < seal.sequence)


async def _extend(tx: TenantTransaction, *, log: _Log, signer: AuditSigner, now: datetime) -> tuple[bool, _Signed]:
    """Sign what follows from the last checkpoint, as far as one goes; return whether that is all, and up to where."""
    placement = tx.placement
    stored, newest = await _state(tx)
    log.check(stored)
    last = _UNSIGNED if stored is None else log.believed(stored, tenant_uid=placement.uid)
    if newest is None or newest.sequence == last.sequence:
        return True, last
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
