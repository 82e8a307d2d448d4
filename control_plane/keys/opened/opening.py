"""Tenants' keys, opened: which versions there are, and what this process keeps of them for a while."""

from dataclasses import dataclass, field
from datetime import timedelta
from typing import Final
from uuid import UUID

import structlog

from control_plane.errors import KeyRetiredError, UnavailableError
from control_plane.keys import store
from control_plane.keys.material import Material
from control_plane.keys.model import IntegrityError, MissingKeyError, Purpose
from control_plane.keys.opened.cache import Answers, KeyCache
from control_plane.keys.store import StoredKey
from control_plane.keys.vault import KeyVault
from control_plane.operations.periodic import run_every
from control_plane.postgres.database import Database, SystemTransaction

# What a destroyed or rotated key may still be used for by a process that has not heard of it.
KEPT_FOR: Final = timedelta(minutes=5)
# How long another process may go on with the version of before a rotation: this, and what a slow query takes on top.
_NEWEST: Final = timedelta(milliseconds=750)
# By looking, since what is called out (NOTIFY) may be missed.
_SEALS_SEEN_EVERY: Final = timedelta(milliseconds=500)
_OPEN_KEYS: Final = 4096

_log = structlog.get_logger(__name__)


@dataclass(frozen=True, slots=True, kw_only=True)
class OpenKey:
    """One version of a key, as the vault opened it."""

    id: UUID
    purpose: Purpose
    version: int
    material: Material = field(repr=False)


@dataclass(frozen=True, slots=True, kw_only=True)
class _Enabled:
    """Which versions of a key may be used, the newest first; the first of `used` is for what is new."""

    versions: tuple[int, ...]
    used: tuple[int, ...]


class OpenKeys:
    """What this process has opened of all tenants' keys, and for how long; see `TenantKeys`."""

    def __init__(self, vault: KeyVault, database: Database) -> None:
        """Keys are opened by `vault`, and kept, wrapped, in `database`."""
        self._vault = vault
        self._system = database.system()
        self._open: KeyCache[tuple[UUID, str, int], OpenKey] = KeyCache(lifetime=KEPT_FOR, capacity=_OPEN_KEYS)
        self._newest: Answers[tuple[UUID, str], int] = Answers(
            fresh=_NEWEST, kept=KeyCache(lifetime=KEPT_FOR, capacity=_OPEN_KEYS)
        )
        self._enabled: Answers[tuple[UUID, str], _Enabled] = Answers(
            fresh=_NEWEST, kept=KeyCache(lifetime=KEPT_FOR, capacity=_OPEN_KEYS)
        )

    def forget(self, tenant_uid: UUID) -> None:
        """Drop a tenant's opened keys from this process's memory."""
        self._open.forget(tenant_uid)
        self.look_again(tenant_uid)

    def look_again(self, tenant_uid: UUID) -> None:
        """Have this process find out anew which versions of a tenant's keys are the newest. What is open stays open."""
        self._newest.forget(tenant_uid)
        self._enabled.forget(tenant_uid)

    async def run(self) -> None:
        """Drop what must not be used any more, twice a second, until cancelled: also where nobody calls for it."""
        await run_every(_SEALS_SEEN_EVERY, self.forget_unusable, log=_log, postponed="seals_unseen")

    async def forget_unusable(self) -> None:
        """Drop what is open of sealed tenants, or retired. What is just being opened is found the next time."""
        owners = self._open.owners()
        if owners:
            for tenant_uid in await self._system.run(lambda tx: store.sealed(tx, owners)):
                self._open.forget(tenant_uid)
            for key in await self._system.run(lambda tx: store.retired(tx, owners)):
                if key in self._open:
                    self._open.forget(key[0])

    async def _usable(self, tenant_uid: UUID, key_id: str) -> list[StoredKey]:
        """List the versions of a key that may be opened: of a sealed tenant none, whoever asks."""

        async def read(tx: SystemTransaction) -> list[StoredKey]:
            await store.check_unsealed(tx, tenant_uid)
            return await store.enabled_of(tx, tenant_uid, key_id)

        return await self._system.run(read)

    async def _all_opened(self, tenant_uid: UUID, key_id: str) -> tuple[list[OpenKey], int]:
        """Open all versions of a key that may be used, the newest first; say which one is for what is new."""
        enabled = await self._all_enabled(tenant_uid, key_id)
        try:
            opened = [await self._opened(tenant_uid, key_id, version=version) for version in enabled.versions]
        except KeyRetiredError:
            # Since it was asked.
            self.look_again(tenant_uid)
            enabled = await self._all_enabled(tenant_uid, key_id)
            opened = [await self._opened(tenant_uid, key_id, version=version) for version in enabled.versions]
        return opened, enabled.used[0]

    async def _all_enabled(self, tenant_uid: UUID, key_id: str) -> _Enabled:
        known = self._enabled.get((tenant_uid, key_id))
        if known is not None:
            return known
        asked = self._enabled.epoch
        try:
            usable = await self._usable(tenant_uid, key_id)
        except UnavailableError:
            last = self._enabled.last((tenant_uid, key_id))
            if last is None:
                raise
            return last
        found = _Enabled(
            versions=tuple(each.version for each in usable), used=tuple(each.version for each in usable if each.is_used)
        )
        if not found.used:
            raise MissingKeyError(f"{key_id} key of tenant {tenant_uid}")
        self._enabled.put((tenant_uid, key_id), found, owner=tenant_uid, since=asked)
        return found

    async def _opened(self, tenant_uid: UUID, key_id: str, *, version: int | None = None) -> OpenKey:
        """Open the key of that version, or the newest that is used."""
        wanted = version or self._newest.get((tenant_uid, key_id))
        kept = self._open.get((tenant_uid, key_id, wanted)) if wanted else None
        if kept is not None:
            return kept
        try:
            return await self._found(tenant_uid, key_id, version=version)
        except UnavailableError:
            last = None if version else self._newest.last((tenant_uid, key_id))
            kept = self._open.get((tenant_uid, key_id, last)) if last else None
            if kept is None:
                raise
            return kept

    async def _found(self, tenant_uid: UUID, key_id: str, *, version: int | None) -> OpenKey:
        since, asked = self._open.epoch, self._newest.epoch
        stored = await self._chosen(tenant_uid, key_id, version=version)
        opened = self._open.get((tenant_uid, key_id, stored.version))
        if opened is None:
            try:
                opened = await self._unwrapped(stored)
            except MissingKeyError:
                # Its KEK may have been replaced since the row was read.
                again = await self._chosen(tenant_uid, key_id, version=version)
                if again.kek == stored.kek:
                    raise
                opened = await self._unwrapped(again)
            self._open.put((tenant_uid, key_id, opened.version), opened, owner=tenant_uid, since=since)
        if version is None:
            self._newest.put((tenant_uid, key_id), opened.version, owner=tenant_uid, since=asked)
        return opened

    async def _chosen(self, tenant_uid: UUID, key_id: str, *, version: int | None) -> StoredKey:
        for stored in await self._usable(tenant_uid, key_id):
            if stored.is_used if version is None else stored.version == version:
                return stored
        if version is not None:
            await self._system.run(lambda tx: store.check_enabled(tx, tenant_uid, key_id=key_id, version=version))
        raise MissingKeyError(f"{key_id} key {version or ''} of tenant {tenant_uid}")

    async def _unwrapped(self, stored: StoredKey) -> OpenKey:
        try:
            private = await self._vault.unwrap(stored.kek, stored.wrapped, aad=stored.binding.aad())
        except IntegrityError:
            # Someone has changed, or moved, what is in the database.
            _log.error("wrapped_key_refused", tenant_uid=str(stored.tenant_uid), purpose=stored.purpose.value)
            raise
        material = Material(private=private, public=stored.public, cross=stored.cross)
        return OpenKey(id=stored.id, purpose=stored.purpose, version=stored.version, material=material)
