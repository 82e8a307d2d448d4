r"""An audit log as a file that is checked without the platform: JSON, a line for each thing, in the order of the chain.

::

    {"entry": ..., "link": ...}             an entry as it is hashed, and its link, hexadecimal; null where it is gone
    {"checkpoint": ..., "sequence": ...}    what was signed up to that place: a DSSE envelope
    {"key": ...}                            a published key, the oldest first, at the end: a DSSE envelope

How entries are linked, and what is signed, says `control_plane/proofs/audit_log.py`.
"""

import base64
import json
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final
from uuid import UUID

import rfc8785

from control_plane.cli.calls.message import Message
from control_plane.cli.isolation.envelope import EnvelopeError, envelope, public_keys
from control_plane.proofs.audit_log import (
    CHECKPOINT_TYPE,
    KEY_TYPE,
    Checkpoint,
    LogKeys,
    PublishedKey,
    Signature,
    Signatures,
    SignedCheckpoint,
    first_head,
    link,
)

_NOBODY: Final = UUID(int=0)

Lines = Callable[[], Iterable[str]]
"""Gives the lines of an export from its beginning: it is read twice."""


class ExportError(Exception):
    """The file, or the keys, are not what they should be. The text says what is wrong, for people."""


class UntrustedKeyError(ExportError):
    """The keys that are given do not vouch for one that is published."""


def part_lines(part: Message) -> Iterator[str]:
    """Write a part of a log, as the API gives it."""
    signed: list[Message] = list(part["checkpoints"])
    for entry in part["sealed_entries"]:
        said = json.loads(base64.b64decode(entry["canonical"]) or b"null")
        yield json.dumps({"entry": said, "link": base64.b64decode(entry["hash"]).hex()})
        while signed and int(signed[0]["sequence"]) <= int(entry["sequence"]):
            yield _checkpoint_line(signed.pop(0))
    yield from map(_checkpoint_line, signed)


def key_lines(keys: Sequence[Message]) -> Iterator[str]:
    """Write published keys, given the newest first, as the API gives them."""
    for key in reversed(keys):
        yield json.dumps({"key": envelope(key, key["signatures"])})


@dataclass(frozen=True, slots=True, kw_only=True)
class Findings:
    """What a check of a log has found."""

    tenant: str
    tenant_uid: UUID
    entries: int
    first_broken: int
    first_forged_checkpoint: int
    last_signed: Checkpoint | None
    key_versions: int

    def shown(self) -> Message:
        """Show it as `VerifyAuditLog` does."""
        last = self.last_signed
        return {
            "tenant": self.tenant,
            "tenant_uid": str(self.tenant_uid),
            "sealed_entries": str(self.entries),
            "signed_entries": str(last.sequence if last else 0),
            "sign_time": last.time.isoformat() if last else "",
            "key_version": f"{self.tenant}/keys/audit/versions/{last.key_version}" if last else "",
            "key_versions": self.key_versions,
            "first_broken_sequence": str(self.first_broken),
            "first_forged_checkpoint": str(self.first_forged_checkpoint),
        }


def check(lines: Lines, keys_pem: str) -> Findings:
    """Check an export against public keys: the platform's, or such of the log's own as were kept.

    Reads it twice, and keeps none of it. Costs some 30 µs for each entry and 150 for each checkpoint.

    Raises:
        ExportError: it is no export, or not a whole one.
        UntrustedKeyError: a published key is not vouched for.
    """
    try:
        keys, tenant = _log_keys(lines(), keys_pem)
        return _walked(lines(), keys, tenant)
    except EnvelopeError as error:
        raise ExportError(str(error)) from error
    except (KeyError, TypeError, ValueError, AttributeError, RecursionError) as error:
        raise ExportError("the file is no export of an audit log") from error


def _log_keys(lines: Iterable[str], keys_pem: str) -> tuple[LogKeys, str]:
    published = [_published(said["key"]) for said in map(json.loads, lines) if "key" in said]
    if not published:
        raise ExportError("there are no keys at its end: it is not whole, or the log was never signed")
    given = {key.public_bytes_raw() for key in public_keys(keys_pem)}
    first = published[0].maybe_read()
    keys = LogKeys.vouched(first.tenant_uid if first else _NOBODY, published, given=given)
    if first is None or keys.first_forged:
        raise UntrustedKeyError(f"version {keys.first_forged} of the log's key is not vouched for by the given keys")
    return keys, first.tenant


def _walked(lines: Iterable[str], keys: LogKeys, tenant: str) -> Findings:
    signatures, sequence, head, broken = Signatures(keys), 0, first_head(keys.tenant_uid), 0
    for said in map(json.loads, lines):
        if "entry" in said:
            broken = _broken(said, keys.tenant_uid, sequence=sequence + 1, head=head)
            sequence, head = sequence + 1, bytes.fromhex(said["link"])
        elif "checkpoint" in said:
            signed = _signed(said)
            # One of an entry that is not there has no head to be compared with.
            if not signatures.hold(signed, head=head if signed.sequence == sequence else b""):
                broken = signatures.sequence + 1 if signed.sequence <= sequence else sequence + 1
        elif "key" not in said:
            raise ValueError("a line of something else")
        if broken:
            break
    return Findings(
        tenant=tenant,
        tenant_uid=keys.tenant_uid,
        entries=sequence,
        first_broken=broken,
        first_forged_checkpoint=signatures.first_forged,
        last_signed=signatures.last,
        key_versions=len(keys.keys),
    )


def _broken(said: Mapping[str, Any], tenant_uid: UUID, *, sequence: int, head: bytes) -> int:
    """Return the sequence number where an entry is not the next one of the chain, else 0."""
    entry = said["entry"]
    if entry is None or (entry["tenant"], entry["sequence"]) != (str(tenant_uid), str(sequence)):
        return sequence
    return 0 if link(head, rfc8785.dumps(entry)) == bytes.fromhex(said["link"]) else sequence


def _checkpoint_line(checkpoint: Message) -> str:
    signed = envelope(checkpoint, [checkpoint])
    return json.dumps({"checkpoint": signed, "sequence": int(checkpoint["sequence"])})


def _signed(said: Mapping[str, Any]) -> SignedCheckpoint:
    (signature,) = _signatures(said["checkpoint"], CHECKPOINT_TYPE)
    payload = base64.b64decode(said["checkpoint"]["payload"], validate=True)
    return SignedCheckpoint(sequence=int(said["sequence"]), payload=payload, signature=signature.signature)


def _published(said: Mapping[str, Any]) -> PublishedKey:
    payload = base64.b64decode(said["payload"], validate=True)
    return PublishedKey(payload=payload, signatures=_signatures(said, KEY_TYPE))


def _signatures(said: Mapping[str, Any], payload_type: str) -> Sequence[Signature]:
    if said["payloadType"] != payload_type:
        raise ValueError("an envelope of something else")
    return [
        Signature(key_id=UUID(each["keyid"]), signature=base64.b64decode(each["sig"], validate=True))
        for each in said["signatures"]
    ]
