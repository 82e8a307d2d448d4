"""All that a thief of the database and the object store has, and every way that the product has to open something.

What is stored is found from the catalogue, column by column: a new table is covered without a line here.
"""

import base64
import binascii
import re
from collections.abc import Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final
from uuid import UUID

import psycopg
from cryptography.exceptions import InvalidSignature
from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey
from psycopg import sql
from psycopg.rows import dict_row

from control_plane.keys.model import KEY_BYTES, PLATFORM_UID, Binding, IntegrityError, Purpose, unseal
from control_plane.keys.sealing.objects import storage_version
from control_plane.keys.sealing.segments import is_segmented, open_whole
from control_plane.keys.store import StoredKey
from control_plane.keys.wrapping import _SAMPLE

_COLUMNS: Final = """
    SELECT n.nspname AS schema, c.relname AS table, a.attname AS column,
           EXISTS (SELECT FROM pg_attribute AS o WHERE o.attrelid = c.oid AND o.attname = 'tenant_uid') AS is_by_tenant
      FROM pg_attribute AS a
      JOIN pg_class AS c ON c.oid = a.attrelid AND c.relkind IN ('r', 'p')
      JOIN pg_namespace AS n ON n.oid = c.relnamespace
     WHERE a.attnum > 0 AND NOT a.attisdropped AND a.atttypid IN ('bytea'::regtype, 'text'::regtype, 'jsonb'::regtype)
       AND n.nspname !~ '^pg_' AND n.nspname <> 'information_schema'
"""
_ENCODED: Final = re.compile(rb"[A-Za-z0-9+/_-]{22,}={0,2}|\b(?:[0-9a-f]{2}){16,}\b")
_FIRST_OBJECT_VERSIONS: Final = (None, 1, 2, 3)
# Where in an envelope of format 1 a key could begin that somebody forgot to wrap.
_KEY_OFFSETS: Final = (0, 9, 21)


@dataclass(frozen=True, slots=True, kw_only=True)
class Blob:
    """One value that is stored."""

    where: str
    owner: UUID | None
    """Whose it is; None is the platform's."""
    content: bytes = field(repr=False)
    binding: Binding | None = None
    """What it is bound to, where that is known from where it lies."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """All that opens what is a tenant's."""

    owner: UUID
    keks: Mapping[int, bytes] = field(repr=False)
    private: Mapping[tuple[str, int], bytes] = field(repr=False)
    """By purpose and version, retired ones too."""
    signers: Sequence[Ed25519PublicKey]

    @property
    def secret(self) -> list[bytes]:
        """Every one of them that has the length of a symmetric key."""
        return [key for key in (*self.keks.values(), *self.private.values()) if len(key) == KEY_BYTES]


@dataclass(frozen=True, slots=True, kw_only=True)
class Dump:
    """A database and an object store, as they lie on the disk."""

    blobs: Sequence[Blob]
    stored: Sequence[StoredKey]
    owners: Mapping[UUID, str]
    """The tenants' ids."""

    @property
    def sealed(self) -> list[Blob]:
        """What looks like an envelope; nothing of the product's opens what does not."""
        return [blob for blob in self.blobs if _version(blob.content)]

    @property
    def key_bytes(self) -> set[bytes]:
        """Whatever in it has the length of a key, as it is, encoded, or beside other bytes of a wrapped key."""
        found = {blob.content for blob in self.blobs if len(blob.content) == KEY_BYTES}
        for key in self.stored:
            pieces = [key.wrapped[begin : begin + KEY_BYTES] for begin in _KEY_OFFSETS]
            found.update(pieces, [key.wrapped[-KEY_BYTES:], key.id.bytes * 2])
        return {piece for piece in found if len(piece) == KEY_BYTES}

    def bindings(self, blob: Blob, *, of: Collection[UUID]) -> list[Binding]:
        """Say all that a blob could be taken to be bound to: as what it is, and moved to each of these tenants."""
        version = _version(blob.content) or 1
        names = {f"secrets/{word}" for word in _uuids(blob.where)}
        if blob.binding is not None:
            names.add(blob.binding.object_name)
        for owner in of:
            path = blob.where.partition("/")[2].partition("/")[2]
            names.add(f"storage/{self.owners.get(owner, '')}/{path.partition('@')[0]}")
        return [
            Binding(tenant_uid=owner, purpose=purpose, version=version, object_name=name, object_version=object_version)
            for owner in of
            for purpose in (Purpose.STORAGE.value, Purpose.SERVICES.value)
            for name in names
            for object_version in _FIRST_OBJECT_VERSIONS
        ]


def read_dump(connection: psycopg.Connection[Any], objects: Path, stored: Sequence[StoredKey]) -> Dump:
    """Read it all."""
    with connection.cursor(row_factory=dict_row) as cursor:
        tenants = cursor.execute("SELECT uid, id, schema_name FROM csm_system.tenants").fetchall()
        by_schema = {row["schema_name"]: row["uid"] for row in tenants}
        blobs = [
            blob
            for column in cursor.execute(_COLUMNS).fetchall()
            for blob in _column(connection, column, owner=by_schema.get(column["schema"]))
        ]
    by_id = {row["id"]: row["uid"] for row in tenants}
    blobs += [
        Blob(where=str(path.relative_to(objects)), owner=by_id.get(path.relative_to(objects).parts[1]), content=content)
        for path in objects.rglob("*")
        if path.is_file() and (content := path.read_bytes())
    ]
    bindings = {bytes(key.wrapped): key.binding for key in stored}
    known = [Blob(where=b.where, owner=b.owner, content=b.content, binding=bindings.get(b.content)) for b in blobs]
    decoded = [
        Blob(where=f"{blob.where} decoded", owner=blob.owner, content=content)
        for blob in known
        for content in _decoded(blob.content)
    ]
    return Dump(blobs=[*known, *decoded], stored=stored, owners={uid: name for name, uid in by_id.items()})


def openings(blob: Blob, keys: Iterable[bytes], bindings: Sequence[Binding]) -> Iterator[str]:
    """Name every way in which one of these keys opens it."""
    aads = [*((str(binding), binding.aad()) for binding in bindings), ("sample", _SAMPLE), ("nothing", b"")]
    if blob.binding is not None:
        aads.append((str(blob.binding), blob.binding.aad()))
    version = _version(blob.content)
    if version is None:
        return
    opened = open_whole if is_segmented(blob.content) else unseal
    for key in keys:
        for bound_to, aad in aads:
            with suppress(IntegrityError):
                opened(key, blob.content, version=version, aad=aad)
                yield f"{blob.where} as {bound_to}"


def verified(dump: Dump, signers: Iterable[Ed25519PublicKey]) -> Iterator[str]:
    """Name every signature in the dump that one of these keys verifies over anything beside it."""
    rows: dict[str, list[Blob]] = {}
    for blob in dump.blobs:
        rows.setdefault(blob.where.partition(" ")[0].rpartition(".")[0], []).append(blob)
    for where, row in rows.items():
        signatures = {blob.content for blob in row if len(blob.content) == 64}
        texts = {blob.content for blob in row} if signatures else set()
        for signer in signers:
            for signature in signatures:
                for text in texts:
                    with suppress(InvalidSignature):
                        signer.verify(signature, text)
                        yield where


def _column(connection: psycopg.Connection[Any], column: Mapping[str, Any], *, owner: UUID | None) -> Iterator[Blob]:
    table = sql.Identifier(column["schema"], column["table"])
    whose = sql.SQL("tenant_uid") if column["is_by_tenant"] else sql.SQL("NULL::uuid")
    query = sql.SQL("SELECT {}, t.ctid::text, t.{}, to_jsonb(t)::text FROM {} AS t").format(
        whose, sql.Identifier(column["column"]), table
    )
    for uid, place, value, row in connection.execute(query).fetchall():
        if value is None:
            continue
        content = value if isinstance(value, bytes) else str(value).encode()
        words = " ".join(_uuids(row))
        where = f"{column['schema']}.{column['table']}{place}.{column['column']} {words}"
        yield Blob(where=where, owner=None if uid == PLATFORM_UID else uid or owner, content=content)


def _uuids(text: str) -> list[str]:
    return re.findall(r"[0-9a-f]{8}(?:-[0-9a-f]{4}){3}-[0-9a-f]{12}", text)


def _decoded(content: bytes) -> Iterator[bytes]:
    """Read what in a text is written in base64 or hexadecimal."""
    if _version(content):
        return
    for word in _ENCODED.findall(content):
        with suppress(binascii.Error, ValueError):
            yield base64.urlsafe_b64decode(word.replace(b"+", b"-").replace(b"/", b"_") + b"=" * (-len(word) % 4))
        with suppress(ValueError):
            yield bytes.fromhex(word.decode())


def _version(content: bytes) -> int | None:
    with suppress(IntegrityError):
        return storage_version(content) or None
    return None
