"""Who may do what in Valkey.

`default`, as which everybody begins, may do nothing. The platform has two users, of which neither reaches a tenant's
keys: the edge counts in its own, the control plane makes the tenants' users. Each tenant has one, which reaches its own
keys by the commands that the functions are made of: what a function calls is asked of whoever called the function. None
of these commands shows a key's name, reaches a channel, or touches more than the keys that it names.
"""

import hashlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Final

from control_plane import cell_key
from control_plane.cache.model import key_prefix
from control_plane.postgres.placement import Placement

DEFAULT: Final = "default"
EDGE: Final = "edge"
CONTROL_PLANE: Final = "control-plane"
PLATFORM: Final = frozenset({DEFAULT, EDGE, CONTROL_PLANE})

EDGE_COMMANDS: Final = ("exists", "fcall", "function|load", "get", "set", "time")
"""What `ext_authz/budgets/budget.lua` calls, and what brings it there."""
CONTROL_PLANE_COMMANDS: Final = (
    "acl|deluser", "acl|getuser", "acl|setuser", "acl|users", "function|list", "function|load", "ping",
)  # fmt: skip
TENANT_COMMANDS: Final = (
    "del", "fcall", "get", "hdel", "hget", "hincrby", "hset", "memory|usage", "pexpireat", "set", "time", "zadd",
    "zcard", "zrange", "zrem", "zscore",
)  # fmt: skip
"""What `cache.lua` calls."""


@dataclass(frozen=True, slots=True, kw_only=True)
class User:
    """Somebody that Valkey knows."""

    name: str
    password: str = field(repr=False)
    pattern: str | None = None
    """The keys that it reaches; None is none."""
    commands: tuple[str, ...]

    @property
    def rules(self) -> tuple[str, ...]:
        """Everything that it may, as `ACL SETUSER` takes it, whatever it might before. Of the password, the hash."""
        return (
            "reset",
            "on",
            f"#{hashlib.sha256(self.password.encode()).hexdigest()}",
            "resetkeys",
            *(() if self.pattern is None else (f"~{self.pattern}",)),
            "resetchannels",
            "-@all",
            *(f"+{command}" for command in self.commands),
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class Rights:
    """What a user may do, as Valkey tells it, or as it ought to."""

    flags: frozenset[str]
    commands: frozenset[str]
    """The rules, of which the first takes everything away."""
    keys: str
    channels: str
    selectors: tuple[str, ...]
    """More rights, each with keys of its own."""

    @classmethod
    def of(cls, user: User) -> "Rights":
        """Return what `User.rules` give."""
        return cls(
            flags=frozenset({"on"}),
            commands=frozenset({"-@all", *(f"+{command}" for command in user.commands)}),
            keys="" if user.pattern is None else f"~{user.pattern}",
            channels="",
            selectors=(),
        )

    @classmethod
    def told(cls, answer: Mapping[str, Sequence[str]]) -> "Rights":
        """Read what `ACL GETUSER` answers, but for the passwords."""
        return cls(
            # What an argument is checked for says nothing of what it may reach.
            flags=frozenset(answer["flags"]) - {"sanitize-payload"},
            commands=frozenset(" ".join(answer["commands"]).split()),
            keys=" ".join(answer["keys"]),
            channels=" ".join(answer["channels"]),
            selectors=tuple(answer["selectors"]),
        )


NO_RIGHTS: Final = Rights(flags=frozenset({"off"}), commands=frozenset({"-@all"}), keys="", channels="", selectors=())
"""What `DEFAULT` has."""


def tenant_user(placement: Placement, cell_secret: bytes) -> User:
    """Return the user of a tenant. It is named by the uid: a later tenant of the same id is somebody else.

    Raises:
        ValueError: the id is none that a tenant can have.
    """
    name = str(placement.uid)
    return User(
        name=name,
        password=cell_key.password(cell_secret, name),
        pattern=f"{key_prefix(placement.tenant_id)}*",
        commands=TENANT_COMMANDS,
    )


def control_plane_user(cell_secret: bytes) -> User:
    """Return the user that makes the tenants' users. Who makes users can become anybody: the secret is the server's."""
    return User(
        name=CONTROL_PLANE, password=cell_key.password(cell_secret, CONTROL_PLANE), commands=CONTROL_PLANE_COMMANDS
    )


def edge_user(edge_secret: bytes) -> User:
    """Return the user of the edge's workers. Its secret is another one, so that an edge knows no tenant's password."""
    return User(name=EDGE, password=cell_key.password(edge_secret, EDGE), pattern="edge:*", commands=EDGE_COMMANDS)


def acl_file(*users: User) -> str:
    """Return what Valkey begins with: these users, and that nobody else may do anything."""
    lines = [f"user {DEFAULT} off resetkeys resetchannels -@all"]
    # In a file there is nothing yet to be reset.
    lines += [f"user {user.name} {' '.join(user.rules[1:])}" for user in users]
    return "\n".join(lines) + "\n"
