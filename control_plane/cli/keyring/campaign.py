"""A new KEK for every tenant, as after a suspicion: begun a few at a time, and gone on with after any interruption."""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, field
from datetime import timedelta
from itertools import islice
from typing import Final
from uuid import UUID, uuid5

from control_plane.cli import operations
from control_plane.cli.calls.failures import CallFailedError, Failure, with_hint
from control_plane.cli.calls.message import Message
from control_plane.cli.session import Session

_TENANTS: Final = "bulkhead.v1.TenantService/ListTenants"
_ROTATE: Final = "bulkhead.v1.KeyService/RotateKey"
# As many as make the worker of the control plane wait for nobody.
_AT_ONCE: Final = 8
_LARGEST_PAGE: Final = 1000
# What speaks of one tenant; anything else would be the same for all that follow.
_OF_ONE: Final = frozenset({"FAILED_PRECONDITION", "NOT_FOUND", "INTERNAL"})


@dataclass(slots=True, kw_only=True)
class Progress:
    """How far a campaign is."""

    campaign: str
    rotated: int = 0
    failed: list[Message] = field(default_factory=list)

    def failure(self, tenant: str, failure: Failure) -> None:
        """Note a tenant whose KEK stays for now."""
        self.failed.append({"tenant": tenant, "reason": failure.reason or failure.code, "message": failure.message})


def run(session: Session, progress: Progress, *, timeout: timedelta) -> None:
    """Rotate the KEK of every tenant, once in a campaign, however often it is run.

    Raises:
        CallFailedError: what concerns all tenants, such as a control plane that is away. Say what to repeat.
    """
    for tenants in _batches(_all(session)):
        begun = [(tenant, _begun(session, tenant, progress)) for tenant in tenants]
        for tenant, operation in begun:
            if operation is not None:
                _end(session, tenant, operation, progress, timeout=timeout)
        session.say(f"  {progress.rotated} rotated, {len(progress.failed)} failed")


def _all(session: Session) -> Iterator[Message]:
    for page in session.pages(_TENANTS, {"page_size": _LARGEST_PAGE}, follow=lambda _: True):
        yield from page["tenants"]


def _batches(tenants: Iterable[Message]) -> Iterator[Sequence[Message]]:
    left = iter(tenants)
    while batch := list(islice(left, _AT_ONCE)):
        yield batch


def _begun(session: Session, tenant: Message, progress: Progress) -> Message | None:
    # The same id for the same tenant of the same campaign: what was begun before is returned, and not begun again.
    request_id = uuid5(UUID(progress.campaign), tenant["uid"])
    request = {"name": f"{tenant['name']}/keys/kek", "request_id": str(request_id)}
    try:
        return session.call(_ROTATE, request)
    except CallFailedError as error:
        _note(error, tenant, progress)
        return None


def _end(session: Session, tenant: Message, operation: Message, progress: Progress, *, timeout: timedelta) -> None:
    try:
        operations.result(operations.until_done(operation, timeout=timeout, look=operations.waits(session)))
        progress.rotated += 1
    except CallFailedError as error:
        _note(error, tenant, progress)


def _note(error: CallFailedError, tenant: Message, progress: Progress) -> None:
    if error.failure.code not in _OF_ONE:
        raise with_hint(error, f"go on with `{{bulkhead}} keys rotate-keks --campaign {progress.campaign}`") from error
    progress.failure(tenant["name"], error.failure)
