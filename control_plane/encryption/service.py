"""Seals and opens, each use with its entry in the tenant's audit log: nothing goes out without."""

from dataclasses import dataclass, field

from control_plane.encryption.model import Purpose
from control_plane.errors import FieldViolation, InvalidArgumentError, PreconditionError
from control_plane.keys.model import IntegrityError, MissingKeyError
from control_plane.keys.service import TenantKeys
from control_plane.postgres.database import TenantHandle, TenantTransaction
from control_plane.postgres.effects import Effect, JsonValue


@dataclass(frozen=True, slots=True, kw_only=True)
class Sealed:
    """An envelope, and which version of the key sealed it."""

    ciphertext: bytes
    version: int


@dataclass(frozen=True, slots=True, kw_only=True)
class Opened:
    """What was in an envelope, and which version of the key had sealed it."""

    plaintext: bytes = field(repr=False)
    version: int


class Encryption:
    """The key for services of every tenant; whose, the handle says.

    Every method raises UnavailableError when the key cannot be had, and then nothing was done.
    """

    def __init__(self, keys: TenantKeys) -> None:
        """Use the tenants' `keys`."""
        self._keys = keys

    async def seal(self, plaintext: bytes, purpose: Purpose, handle: TenantHandle) -> Sealed:
        """Seal it under the newest version."""
        sealed = await self._sealed(plaintext, purpose, handle)
        await self._record(handle, purpose, sealed.version)
        return sealed

    async def open(self, ciphertext: bytes, purpose: Purpose, handle: TenantHandle) -> Opened:
        """Open it.

        Raises:
            InvalidArgumentError: it was not sealed here, for this tenant and this context, or was altered since.
            PreconditionError: the version that sealed it is not used any more.
        """
        opened = await self._opened(ciphertext, purpose, handle)
        await self._record(handle, purpose, opened.version)
        return opened

    async def rewrap(self, ciphertext: bytes, purpose: Purpose, handle: TenantHandle) -> Sealed:
        """Open it and seal it under the newest version. Raises like `open`."""
        opened = await self._opened(ciphertext, purpose, handle)
        sealed = await self._sealed(opened.plaintext, purpose, handle)
        await self._record(handle, purpose, sealed.version, before=opened.version)
        return sealed

    async def _sealed(self, plaintext: bytes, purpose: Purpose, handle: TenantHandle) -> Sealed:
        ciphertext, version = await self._keys.seal_for_services(handle.placement, plaintext, bound_to=purpose.binding)
        return Sealed(ciphertext=ciphertext, version=version)

    async def _opened(self, ciphertext: bytes, purpose: Purpose, handle: TenantHandle) -> Opened:
        try:
            plaintext, version = await self._keys.open_for_services(
                handle.placement, ciphertext, bound_to=purpose.binding
            )
        except IntegrityError:
            text = "does not open: altered, or sealed elsewhere, for another tenant or with another context"
            raise InvalidArgumentError(
                FieldViolation(field="ciphertext", description=text, reason="CIPHERTEXT")
            ) from None
        except MissingKeyError as error:
            name = f"tenants/{handle.placement.tenant_id}/keys/services"
            text = "what sealed this is not used any more, or never was"
            raise PreconditionError(name, text, reason="KEY_VERSION_UNUSABLE") from error
        return Opened(plaintext=plaintext, version=version)

    async def _record(self, handle: TenantHandle, purpose: Purpose, version: int, *, before: int | None = None) -> None:
        context: dict[str, JsonValue] = dict(purpose.context)
        details: dict[str, JsonValue] = {"reason": purpose.reason, "encryption_context": context}
        if before is not None:
            details["sealed_before_by"] = before
        effect = Effect(resource=key_version_name(handle, version), details=details)

        async def work(tx: TenantTransaction) -> None:
            tx.record(effect)

        await handle.run(work)


def key_version_name(handle: TenantHandle, version: int) -> str:
    """Name a version of the key for services as a resource."""
    return f"tenants/{handle.placement.tenant_id}/keys/services/versions/{version}"
