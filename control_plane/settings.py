"""What a process is told at its start. Read from `config.json` in the state directory, which `bulkhead up` writes.

Relative paths are relative to the state directory.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from control_plane.config_file import read_config

SOFTWARE: Final = "software"
PKCS11: Final = "pkcs11"
# Each costs a process 1 ms at its start, and a search takes 20 µs for each key of its shard.
DEFAULT_SHARDS: Final = 16


@dataclass(frozen=True, slots=True, kw_only=True)
class ListenerSettings:
    """Where a process serves gRPC, and with which certificate."""

    listen: str
    """`host:port` for callers with a bearer token."""
    internal_listen: str
    """`host:port` for internal services with a client certificate."""
    certificate: Path
    """The server's certificate, PEM."""
    key: Path
    """Its private key, PEM."""


@dataclass(frozen=True, slots=True, kw_only=True)
class ObjectsSettings:
    """Where tenants' objects are. `docs/objects.md` has the whole of it."""

    location: str
    """A directory, or the URL of a bucket."""
    options: Mapping[str, str]
    """How the bucket's service is reached. No credentials: they are in a file or in the environment."""
    credentials_file: Path | None
    """The file, for S3."""


@dataclass(frozen=True, slots=True, kw_only=True)
class DeviceSettings:
    """A device that holds the tenants' keys, where somebody has configured one. `docs/vault.md` has the whole of it."""

    module: Path
    """Its PKCS#11 library."""
    tokens: tuple[str, ...]
    """The labels of its tokens that are ours. With the first tenant they are settled, and their order with them."""
    pin_file: Path
    """The PIN of these tokens, mode 0600. Another one is tried as soon as it is in the file."""
    own_tokens: tuple[str, ...] = ()
    """The labels of further tokens of ours, each for one tenant that asks for a token to itself."""


@dataclass(frozen=True, slots=True, kw_only=True)
class HsmSettings:
    """How the vault speaks PKCS#11."""

    device: DeviceSettings | None = None
    """None for SoftHSM, which is software: its tokens are made by us, in `vault_dir`."""
    shards: int = DEFAULT_SHARDS
    """How many tokens are made for SoftHSM; what a vault was made with stays."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Settings:
    """The settings of one cell on one machine, shared by its processes."""

    state_dir: Path
    """Everything that the cell keeps."""
    postgres_socket_dir: Path
    """The directory of PostgreSQL's unix socket."""
    postgres_port: int
    """The number in the socket's name."""
    postgres_dbname: str
    """The database of this cell."""
    control_plane_connections: int
    """How many connections the control plane may have for tenants' transactions, all tenants together."""
    certificates_connections: int
    """How many the certificate service may have."""
    valkey_socket: Path
    """Valkey's unix socket."""
    valkey_key: Path
    """What the passwords of the control plane and of the tenants at Valkey are derived from; made if need be."""
    control_plane: ListenerSettings
    """Where the control plane serves."""
    certificates: ListenerSettings
    """Where the certificate service serves."""
    ca_file: Path
    """The internal authority's certificate, PEM: clients trust it, and client certificates come from it."""
    admin_token_file: Path
    """Where the control plane keeps a current administrator's token, mode 0600."""
    secrets_dir: Path
    """Keys that the cell's processes share, each file mode 0600."""
    vault_dir: Path
    """The software vault, or what is to be remembered of a device."""
    hsm: HsmSettings | None
    """How the vault speaks PKCS#11; None for the software vault."""
    objects: ObjectsSettings
    """Where tenants' objects are."""
    restricts_unsafe: bool
    """Whether a tenant whose isolation does not hold becomes read-only."""
    services: Mapping[str, frozenset[str]]
    """The scopes of each internal service, by the name in its SPIFFE identity."""

    @classmethod
    def from_dir(cls, state_dir: Path) -> "Settings":
        """Read `config.json` of the state directory.

        Raises:
            SettingsError: when it is absent or lacks something.
        """
        return read_config(state_dir, _settings)


def _settings(state_dir: Path, config: Mapping[str, Any]) -> Settings:
    return Settings(
        state_dir=state_dir,
        postgres_socket_dir=state_dir / config["postgres"]["socket_dir"],
        postgres_port=int(config["postgres"]["port"]),
        postgres_dbname=config["postgres"]["dbname"],
        control_plane_connections=int(config["postgres"]["tenant_connections"]["control_plane"]),
        certificates_connections=int(config["postgres"]["tenant_connections"]["certificates"]),
        valkey_socket=state_dir / config["valkey"]["socket"],
        valkey_key=state_dir / config["secrets_dir"] / "valkey.key",
        control_plane=_listener(state_dir, config["control_plane"]),
        certificates=_listener(state_dir, config["certificates"]),
        ca_file=state_dir / config["ca_file"],
        admin_token_file=state_dir / config["admin_token_file"],
        secrets_dir=state_dir / config["secrets_dir"],
        vault_dir=state_dir / config["vault_dir"],
        hsm=_hsm(state_dir, config.get("vault", SOFTWARE)),
        objects=_objects(state_dir, config["objects"]),
        restricts_unsafe=bool(config["restricts_unsafe"]),
        services={name: frozenset(scopes) for name, scopes in config["services"].items()},
    )


def _hsm(state_dir: Path, config: str | Mapping[str, Any]) -> HsmSettings | None:
    """Read `software`, `pkcs11`, or an object that says more of the latter."""
    if config == SOFTWARE:
        return None
    given: dict[str, Any] = {"kind": config} if isinstance(config, str) else dict(config)
    kind, shards = given.pop("kind"), int(given.pop("shards", DEFAULT_SHARDS))
    device = None
    if "module" in given:
        device = DeviceSettings(
            module=state_dir / given.pop("module"),
            tokens=tuple(map(str, given.pop("tokens"))),
            own_tokens=tuple(map(str, given.pop("own_tokens", ()))),
            pin_file=state_dir / given.pop("pin_file"),
        )
    if kind != PKCS11 or given or shards < 1 or (device and not _is_usable(device)):
        message = f"vault: {kind} {sorted(given)}"
        raise ValueError(message)
    return HsmSettings(device=device, shards=shards)


def _is_usable(device: DeviceSettings) -> bool:
    named = (*device.tokens, *device.own_tokens)
    return bool(device.tokens) and len(set(named)) == len(named)


def _objects(state_dir: Path, config: str | Mapping[str, Any]) -> ObjectsSettings:
    """Read a directory or a URL, alone or as the `url` of an object with `options` and `credentials_file`."""
    given: dict[str, Any] = {"url": config} if isinstance(config, str) else dict(config)
    location, options, file = given.pop("url"), given.pop("options", {}), given.pop("credentials_file", None)
    if given:
        message = f"objects: {sorted(given)}"
        raise ValueError(message)
    return ObjectsSettings(
        location=location if "://" in location else str(state_dir / location),
        options={str(name): str(value) for name, value in options.items()},
        credentials_file=None if file is None else state_dir / file,
    )


def _listener(state_dir: Path, config: Mapping[str, Any]) -> ListenerSettings:
    return ListenerSettings(
        listen=config["listen"],
        internal_listen=config["internal_listen"],
        certificate=state_dir / config["certificate"],
        key=state_dir / config["key"],
    )
