"""What a recipient does with a private key, without a stack and without a network."""

import base64
import json
from dataclasses import dataclass, field
from typing import Any
from uuid import UUID

from control_plane.recipients import ceremony, hpke


class ApprovalError(Exception):
    """The recovery cannot be approved with this key. The text says why, for people."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Approval:
    """A share, sealed to one recovery."""

    recovery: str
    recipient: str
    beginner: str
    reason: str
    sealed: bytes = field(repr=False)


def new_key() -> tuple[str, str, str]:
    """Make a key pair; return the private file, the public file, and the fingerprint."""
    key = hpke.PrivateKey.generate()
    return ceremony.private_file(key), ceremony.public_file(key.public), hpke.fingerprint(key.public)


def fingerprint(content: bytes) -> str:
    """Name the public key in a file.

    Raises:
        ApprovalError: there is none of the suite's.
    """
    try:
        public = ceremony.read_public(content)
        hpke.check_public(public)
    except hpke.PublicKeyError as error:
        raise ApprovalError(str(error)) from error
    return hpke.fingerprint(public)


def approve(text: str, key_file: bytes, *, session: str) -> Approval:
    """Open the share that a recovery has for this key, and seal it to that recovery.

    `session` is the fingerprint that whoever began the recovery has told: another session's key is not sealed to.

    Raises:
        ApprovalError: the file is no recovery, or of another session, or the key has no share in it.
    """
    try:
        key = ceremony.read_private(key_file)
    except ceremony.KeyFileError as error:
        raise ApprovalError(str(error)) from error
    try:
        recovery: Any = json.loads(text)
        public = base64.b64decode(recovery["session_public_key"])
        tenant_uid, escrow_id = UUID(recovery["tenant_uid"]), UUID(recovery["escrow_id"])
        name, recovery_id = recovery["name"], UUID(recovery["name"].rsplit("/", 1)[1])
        shares = {one["fingerprint"]: one for one in recovery["shares"]}
    except (AttributeError, IndexError, KeyError, TypeError, ValueError) as error:
        raise ApprovalError("the file is no recovery that waits for approvals") from error
    if hpke.fingerprint(public) != session.strip().lower():
        raise ApprovalError(
            "the session is another one than you were told of: ask whoever began the recovery, and nobody else"
        )
    share = shares.get(hpke.fingerprint(key.public))
    if share is None:
        raise ApprovalError("this key has no share in the recovery")
    recipient = str(share["recipient"])
    try:
        opened = key.open(
            base64.b64decode(share["sealed_share"]), ceremony.share_context(tenant_uid, escrow_id, recipient)
        )
        sealed = hpke.seal(public, opened, ceremony.approval_context(tenant_uid, recovery_id, recipient))
    except (hpke.UnopenedError, hpke.PublicKeyError, KeyError, ValueError) as error:
        raise ApprovalError("the share does not open: the file was altered") from error
    return Approval(
        recovery=str(name),
        recipient=recipient,
        beginner=str(recovery.get("beginner", "")),
        reason=str(recovery.get("reason", "")),
        sealed=sealed,
    )
