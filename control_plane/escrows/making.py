"""How an escrow is made: a key pair, shares of its private half for the recipients, and a copy of every key.

The private half is in this function's memory, and nowhere else, until it returns.
"""

import asyncio
from collections.abc import Sequence
from dataclasses import dataclass
from datetime import datetime
from uuid import UUID

from control_plane.escrows import shares
from control_plane.escrows.model import Escrow, Share, Terms
from control_plane.ids import new_uuid
from control_plane.keys.escrow import EscrowKey
from control_plane.keys.model import MissingKeyError, Purpose
from control_plane.keys.store import StoredKey
from control_plane.keys.wrapping import Wrapping
from control_plane.recipients import ceremony, hpke


@dataclass(frozen=True, slots=True, kw_only=True)
class Made:
    """An escrow that can be stored, with the keys that it has copies of."""

    escrow: Escrow
    keys: Sequence[StoredKey]


async def make(
    wrapping: Wrapping, tenant_uid: UUID, *, terms: Terms, stored: Sequence[StoredKey], now: datetime
) -> Made:
    """Make an escrow of all of a tenant's keys. Unwraps each; nothing is stored.

    Raises:
        IntegrityError, MissingKeyError: a key does not open.
    """
    key = hpke.PrivateKey.generate()
    new = EscrowKey(id=new_uuid(), public=key.public, terms_digest=terms.digest, check_key_id=_check_key_id(stored))
    made, copies, root = await wrapping.escrowed(stored, key, escrow=new)
    texts = await asyncio.to_thread(shares.split, key.seed, threshold=terms.threshold, count=len(terms.recipients))
    sealed = tuple(
        Share(
            recipient=one.name,
            position=position,
            public=one.public,
            sealed=hpke.seal(one.public, text, ceremony.share_context(tenant_uid, made.id, one.name)),
            digest=ceremony.share_digest(made.id, one.name, text),
        )
        for position, (one, text) in enumerate(zip(terms.recipients, texts, strict=True))
    )
    escrow = Escrow(
        tenant_uid=tenant_uid,
        id=made.id,
        public=key.public,
        threshold=terms.threshold,
        platform_may_begin=terms.platform_may_begin,
        terms_digest=made.terms_digest,
        check_key_id=made.check_key_id,
        root_check=root,
        voucher=made.voucher,
        create_time=now,
        shares=sealed,
    )
    return Made(escrow=escrow, keys=copies)


def _check_key_id(stored: Sequence[StoredKey]) -> UUID:
    """Choose the key that derives what is stored nowhere: its version stays as long as the escrow."""
    for key in stored:
        if key.purpose is Purpose.ENROLMENT and key.is_used:
            return key.id
    raise MissingKeyError("a key that copies in escrow could be checked by")
