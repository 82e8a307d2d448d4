"""How arguments are read: names with and without their collection, lengths of time, labels."""

import base64
import json
import re
from dataclasses import dataclass
from datetime import timedelta
from pathlib import Path
from typing import Annotated, Final

import typer

# As many digits as a sum of them can be counted with.
_SPAN: Final = re.compile(
    r"(?:(?P<days>\d{1,6})d)?(?:(?P<hours>\d{1,6})h)?(?:(?P<minutes>\d{1,6})m)?(?:(?P<seconds>\d{1,9})s)?", re.ASCII
)

_WINDOWS: Final = ("SECOND", "MINUTE", "HOUR", "DAY", "MONTH")


def tenant_name(text: str) -> str:
    """Return the resource name of a tenant, which may be given by its id alone."""
    return text if "/" in text else f"tenants/{text}"


def operation_name(text: str) -> str:
    """Return the resource name of an operation, which may be given by its id alone."""
    return text if "/" in text else f"operations/{text}"


def token_name(text: str) -> str:
    """Return the resource name of a token, which may be given by the token itself: its claims say what it is called."""
    if "/" in text:
        return text
    try:
        payload = text.split(".")[1]
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
        return f"tenants/{claims['tid']}/tokens/{claims['jti']}"
    except (IndexError, KeyError, TypeError, ValueError):
        # Not repeated: it may be a secret all the same.
        raise typer.BadParameter("is neither like tenants/TENANT/tokens/TOKEN nor a tenant's token") from None


def time_span(text: str | timedelta) -> timedelta:
    """Read a length of time such as `90d`, `1h30m` or `45s`; one read before passes, since typer reads defaults too."""
    if isinstance(text, timedelta):
        return text
    match = _SPAN.fullmatch(text)
    if not text or match is None:
        raise typer.BadParameter(f"{text!r} is no length of time such as 90d, 1h30m or 45s")
    return timedelta(**{unit: int(number) for unit, number in match.groupdict().items() if number})


def duration(span: timedelta | None) -> str | None:
    """Return a length of time in the JSON form of a protobuf Duration."""
    return None if span is None else f"{span // timedelta(seconds=1)}s"


def labels(pairs: list[str]) -> dict[str, str]:
    """Read labels, each given as `key=value`."""
    for pair in pairs:
        if "=" not in pair:
            raise typer.BadParameter(f"{pair!r} is no label like key=value")
    return dict(pair.split("=", 1) for pair in pairs)


def reason_code(text: str) -> str:
    """Read why a key is used, in any case and with dashes; none passes, since typer reads defaults too."""
    from bulkhead.v1 import key_uses_pb2  # noqa: PLC0415 `--help` need not wait for protobuf

    name = text.upper().replace("-", "_")
    names = key_uses_pb2.KeyUse.ReasonCode.keys()[1:]
    if text and name not in names:
        raise typer.BadParameter(f"{text!r} is none of {', '.join(names).lower().replace('_', '-')}")
    return name


def rate_limits(pairs: list[str]) -> list[dict[str, str]]:
    """Read limits, each given as `window=units`, into their JSON form."""
    limits = []
    for pair in pairs:
        window, _, units = pair.partition("=")
        if window.upper() not in _WINDOWS or not units.isdecimal():
            raise typer.BadParameter(f"{pair!r} is no limit like hour=5000")
        limits.append({"window": window.upper(), "units": units})
    return limits


Tenant = Annotated[
    str, typer.Argument(metavar="TENANT", parser=tenant_name, help="The tenant: its id, or its name tenants/ID.")
]
Operation = Annotated[
    str, typer.Argument(metavar="OPERATION", parser=operation_name, help="The operation: operations/ID, or its id.")
]
Certificate = Annotated[str, typer.Argument(metavar="NAME", help="tenants/TENANT/certificates/CERTIFICATE")]
Token = Annotated[
    str, typer.Argument(metavar="NAME", parser=token_name, help="tenants/TENANT/tokens/TOKEN, or the token itself.")
]
ReasonCode = Annotated[
    str,
    typer.Option(
        metavar="CODE", parser=reason_code, help="Why, for the tenant's key policy, such as customer-initiated."
    ),
]
RequestId = Annotated[
    str, typer.Option(metavar="UUID", help="Repeat a call with the same id, and it is carried out once.")
]
ValidateOnly = Annotated[bool, typer.Option("--validate-only", help="Check everything, and change nothing.")]
Etag = Annotated[str, typer.Option(metavar="ETAG", help="Refuse if it is not the current one.")]
OutFile = Annotated[Path | None, typer.Option("--out", metavar="FILE", help="Where to write it; `-` is stdout.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class Paging:
    """How much of a list to read."""

    page_size: Annotated[int, typer.Option(metavar="N", help="How many at most: 50 if not said, 1000 at most.")] = 0
    page_token: Annotated[str, typer.Option(metavar="TOKEN", help="Go on after the page that gave this.")] = ""
    everything: Annotated[bool, typer.Option("--all", help="Read page after page, to the end.")] = False
