"""A tenant's keys as a tree: what each rests on, and how old it is. Pure."""

from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from typing import Final

from control_plane.cli import output
from control_plane.cli.calls.message import Message

_KEK: Final = "KEK"
_UNITS: Final = ((86_400, "d"), (3_600, "h"), (60, "m"))


def drawn(
    tenant: str, keys: Sequence[Message], versions: Mapping[str, Sequence[Message]], *, now: datetime
) -> Iterator[str]:
    """Draw the tenant, its root of trust, its KEK, and below that what it wraps."""
    yield output.plain(tenant)
    if not keys:
        return
    yield f"└─ {_root(keys[0]['root_of_trust'])}"
    keks = [key for key in keys if key["purpose"] == _KEK]
    others = [key for key in keys if key["purpose"] != _KEK]
    for key in keks:
        yield f"   └─ {_titled(key)}"
        indent = " " * 6 + ("│  " if others else "   ")
        yield from _lines_of(versions[key["name"]], indent=indent, now=now)
    for key in others:
        last = key is others[-1]
        yield f"      {'└─' if last else '├─'} {_titled(key)}"
        yield from _lines_of(versions[key["name"]], indent=" " * 6 + ("   " if last else "│  "), now=now)


def _root(root: Message) -> str:
    parts = [root["label"], root["firmware"], f"token {root['token']}" if root["token"] else ""]
    if root["own_token"]:
        parts.append("to itself")
    backed = "in hardware" if root["hsm_backed"] else "not in hardware"
    return output.plain(f"root of trust: {' '.join(part for part in parts if part)}, {backed}")


def _titled(key: Message) -> str:
    rotating = f"  (being rotated: {key['rotation']})" if key["rotation"] else ""
    said = [f"{key['name'].rsplit('/', 1)[1]}  {key['algorithm']}", *_life(key.get("lifecycle") or {}, key["purpose"])]
    return output.plain(f"{', '.join(said)}{rotating}")


def _life(lifecycle: Message, purpose: str) -> Iterator[str]:
    """Say what is to be known of a key of the tenant's own."""
    if not lifecycle:
        return
    yield purpose.lower()
    if lifecycle["origin"] == "IMPORTED":
        yield "imported"
    if lifecycle["state"] == "DESTROY_SCHEDULED":
        yield f"will be destroyed {output.moment(lifecycle['destroy_time'])}"
    if lifecycle["state"] == "DESTROYED":
        yield "destroyed"


def _lines_of(versions: Sequence[Message], *, indent: str, now: datetime) -> Iterator[str]:
    for version in versions:
        number = version["name"].rsplit("/", 1)[1]
        ends = version.get("destroy_time", "")
        age = _age(now - datetime.fromisoformat(version["create_time"]))
        said = [
            f"version {number}",
            version["state"].lower(),
            "primary" if version["primary"] else "",
            f"{age} old",
            f"under kek {version['kek_version']}" if version["kek_version"] else "",
            f"destroyed {output.moment(ends)}" if ends else "",
            f"kid {version['kid']}" if version["kid"] else "",
        ]
        yield f"{indent}   {output.plain(', '.join(part for part in said if part))}"


def _age(age: timedelta) -> str:
    seconds = max(int(age.total_seconds()), 0)
    for size, unit in _UNITS:
        if seconds >= size:
            return f"{seconds // size}{unit}"
    return f"{seconds}s"
