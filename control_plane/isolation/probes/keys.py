"""What the keys keep apart: what a tenant's key has sealed opens with no other's, and it signs for nobody else."""

from datetime import UTC, datetime, timedelta
from typing import Final

from control_plane.errors import KeyRetiredError, UnauthenticatedError
from control_plane.ids import new_uuid
from control_plane.isolation.model import WallDownError
from control_plane.isolation.probes.probe import Between, Probe, absent_tenant
from control_plane.keys.model import IntegrityError
from control_plane.keys.service import TenantKeys
from control_plane.postgres.placement import Placement
from control_plane.serving.principal import Role
from control_plane.tokens.claims import TENANT_AUDIENCE, Claims
from control_plane.tokens.signature import sign
from control_plane.tokens.verifier import TokenVerifier

_TEXT: Final = b"isolation probe"
_NAME: Final = "probe"
_OTHER_NAME: Final = "probe of another name"
_LIFETIME: Final = timedelta(minutes=1)


def key_probes(keys: TenantKeys, verifier: TokenVerifier, between: Between) -> list[Probe]:
    """Return the questions to a tenant's keys, and to who verifies what they sign."""
    own, other = between.own, between.other

    async def foreign_key() -> str:
        sealed = await keys.encrypt(own, _TEXT, object_name=_NAME)
        if await keys.decrypt(own, sealed, object_name=_NAME) != _TEXT:
            raise WallDownError("what the tenant's key has sealed does not open again")
        await _must_stay_shut(keys, own, sealed, object_name=_OTHER_NAME)
        if other is not None:
            await _must_stay_shut(keys, other, sealed, object_name=_NAME)
        return "held"

    async def foreign_token() -> str:
        signer = await keys.token_signer(own)
        named = other.tenant_id if other is not None else absent_tenant()
        token = sign(_claims(named, datetime.now(UTC)), signer.kid, private_key=signer.private_key)
        try:
            await verifier.verify(token)
        except UnauthenticatedError as error:
            if error.metadata.get("cause") == "TOKEN_OF_ANOTHER_TENANT":
                return "held"
        raise WallDownError("a token that the tenant's key has signed is not told to be another tenant's")

    return [
        Probe(
            name="keys.foreign_key",
            promise="What the tenant's key has sealed opens for the tenant and its name alone.",
            ask=foreign_key,
        ),
        Probe(
            name="keys.foreign_token",
            promise="A token that the tenant's key has signed speaks for no other tenant.",
            ask=foreign_token,
        ),
    ]


async def _must_stay_shut(keys: TenantKeys, placement: Placement, sealed: bytes, *, object_name: str) -> None:
    try:
        await keys.decrypt(placement, sealed, object_name=object_name)
    except (IntegrityError, KeyRetiredError):
        # The version that it names is retired there: shut all the same.
        return
    raise WallDownError("what the tenant's key has sealed opens in another place")


def _claims(tenant_id: str, now: datetime) -> Claims:
    return Claims(
        audience=TENANT_AUDIENCE,
        subject=_NAME,
        role=Role.AUDITOR,
        scopes=(),
        token_id=new_uuid(),
        issue_time=now,
        not_before=now,
        expire_time=now + _LIFETIME,
        tenant_id=tenant_id,
    )
