"""`bulkhead tenants`: the registry of tenants, and their life."""

import re
from collections.abc import Iterator
from dataclasses import dataclass, field
from datetime import timedelta
from typing import Annotated, Final

import typer

from control_plane.cli import arguments, operations
from control_plane.cli.calls.message import Message, without_blanks
from control_plane.cli.command import command
from control_plane.cli.edge import applied
from control_plane.cli.session import Session
from control_plane.cli.tenants import life

app = typer.Typer(no_args_is_help=True, rich_markup_mode=None, help="Tenants: create, change, suspend, seal, delete.")

_SERVICE: Final = "bulkhead.v1.TenantService"
_COLUMNS: Final = ("name", "state", "tier", "display_name", "create_time")

Rate = Annotated[
    int | None,
    typer.Option("--requests-per-minute", metavar="N", help="How many the edge admits; 0 is what the tier has."),
]
PolicyAge = Annotated[
    timedelta | None,
    typer.Option(
        "--max-policy-age",
        metavar="SPAN",
        parser=arguments.time_span,
        help="For how long the edge serves it without news: 15m if not said, 24h at most.",
    ),
]
Isolation = Annotated[
    str,
    typer.Option(
        "--isolation", metavar="LEVEL", help="pooled (if not said), or strict: database connections of its own."
    ),
]
MinConnections = Annotated[
    int | None,
    typer.Option("--min-connections", metavar="N", help="Database connections kept for it while it is active."),
]
MaxConnections = Annotated[
    int | None, typer.Option("--max-connections", metavar="N", help="Database connections that it may use at once.")
]
Serializable = Annotated[
    bool | None,
    typer.Option(
        "--serializable/--as-declared", help="Run each of its transactions as if alone, or as the call declares."
    ),
]
CacheBytes = Annotated[
    int | None, typer.Option("--cache-bytes", metavar="N", help="How much of the cache it may fill; 4 MiB if not said.")
]
RateLimits = Annotated[
    list[str],
    typer.Option(
        "--rate-limit",
        metavar="WINDOW=UNITS",
        help="What its calls may cost in a second, minute, hour, day or month: hour=5000; may be given again.",
    ),
]
BillingDay = Annotated[
    int | None, typer.Option("--billing-day", metavar="N", help="With which its months begin; 1 if not said.")
]
TimeZone = Annotated[
    str | None,
    typer.Option("--time-zone", metavar="ZONE", help="Where its days begin, such as Europe/Berlin; UTC if not said."),
]
Authority = Annotated[
    str,
    typer.Option(
        "--authority-algorithm",
        metavar="ALGORITHM",
        help="Of its authority's key, such as ec-p384, rsa-4096 or ml-dsa-65; ec-p256 if not said. It stays.",
    ),
]
KeyAlgorithms = Annotated[
    list[str],
    typer.Option(
        "--key-algorithm", metavar="ALGORITHM", help="A kind of key that is certified, and no others; again for more."
    ),
]
PostQuantum = Annotated[
    str,
    typer.Option("--post-quantum", metavar="WHICH", help="Of its certificates: off (if not said), hybrid or required."),
]
TokenAlgorithm = Annotated[
    str,
    typer.Option(
        "--token-algorithm",
        metavar="ALGORITHM",
        help="Of its tokens: eddsa (if not said), es256 or ml-dsa-65. A change waits for the key's next rotation.",
    ),
]
Domains = Annotated[
    list[str], typer.Option("--domain", metavar="NAME", help="A host name of its own; may be given again.")
]
Labels = Annotated[list[str], typer.Option("--label", metavar="KEY=VALUE", help="A label; may be given again.")]


@dataclass(frozen=True, slots=True, kw_only=True)
class CreateOptions:
    """What a new tenant is like, and how to wait for it."""

    display_name: Annotated[str, typer.Option(help="What people call it; the id if not said.")] = ""
    tier: Annotated[str, typer.Option(help="standard (if not said), business or enterprise.")] = ""
    label: Labels = field(default_factory=list)
    admin_email: Annotated[str, typer.Option(metavar="ADDRESS", help="Of its first administrator.")] = ""
    requests_per_minute: Rate = None
    domain: Domains = field(default_factory=list)
    max_policy_age: PolicyAge = None
    isolation: Isolation = ""
    hsm_tier: Annotated[
        str,
        typer.Option(
            metavar="TIER", help="shared (if not said), or dedicated: a token of the vault for its keys alone."
        ),
    ] = ""
    min_connections: MinConnections = None
    max_connections: MaxConnections = None
    serializable: Serializable = None
    cache_bytes: CacheBytes = None
    rate_limit: RateLimits = field(default_factory=list)
    billing_day: BillingDay = None
    time_zone: TimeZone = None
    authority_algorithm: Authority = ""
    key_algorithm: KeyAlgorithms = field(default_factory=list)
    post_quantum: PostQuantum = ""
    token_algorithm: TokenAlgorithm = ""
    request_id: arguments.RequestId = ""
    validate_only: arguments.ValidateOnly = False
    wait: Annotated[bool, typer.Option("--wait/--no-wait", help="Wait until the tenant can be used.")] = True
    timeout: operations.Timeout = operations.TIMEOUT


@dataclass(frozen=True, slots=True, kw_only=True)
class UpdateOptions:
    """What to change; what is not named stays."""

    display_name: Annotated[str | None, typer.Option(help="What people call it.")] = None
    tier: Annotated[str | None, typer.Option(help="standard, business or enterprise.")] = None
    label: Annotated[
        list[str], typer.Option("--label", metavar="KEY=VALUE", help="All its labels from now on; may be given again.")
    ] = field(default_factory=list)
    clear_labels: Annotated[bool, typer.Option("--clear-labels", help="Remove all labels.")] = False
    admin_email: Annotated[str | None, typer.Option(metavar="ADDRESS", help="Of its first administrator.")] = None
    requests_per_minute: Rate = None
    domain: Annotated[
        list[str],
        typer.Option("--domain", metavar="NAME", help="All host names of its own from now on; may be given again."),
    ] = field(default_factory=list)
    clear_domains: Annotated[bool, typer.Option("--clear-domains", help="Remove all host names of its own.")] = False
    max_policy_age: PolicyAge = None
    min_connections: MinConnections = None
    max_connections: MaxConnections = None
    serializable: Serializable = None
    cache_bytes: CacheBytes = None
    rate_limit: RateLimits = field(default_factory=list)
    clear_rate_limits: Annotated[
        bool, typer.Option("--clear-rate-limits", help="Count its requests alone, and not what they cost.")
    ] = False
    billing_day: BillingDay = None
    time_zone: TimeZone = None
    key_algorithm: KeyAlgorithms = field(default_factory=list)
    clear_key_algorithms: Annotated[
        bool, typer.Option("--clear-key-algorithms", help="Certify all keys that the profile allows.")
    ] = False
    post_quantum: PostQuantum = ""
    token_algorithm: TokenAlgorithm = ""
    etag: arguments.Etag = ""
    validate_only: arguments.ValidateOnly = False
    wait: applied.Wait = False


@command(app, "create")
def create_tenant(session: Session, tenant: arguments.Tenant, *, options: CreateOptions) -> None:
    """Create a tenant with its own schema, role, keys and administrator, and show it."""
    request_id = session.request_id(options.request_id)
    settings = without_blanks(
        {
            "display_name": options.display_name,
            "tier": options.tier,
            "labels": arguments.labels(options.label),
            "admin_email": options.admin_email,
            "requests_per_minute": options.requests_per_minute,
            "domains": options.domain,
            "max_policy_age": arguments.duration(options.max_policy_age),
            "isolation_level": options.isolation.upper(),
            "hsm_tier": options.hsm_tier.upper(),
            "connection_pooling": _pooling(options),
            "cache_bytes": options.cache_bytes,
            "rate_limits": arguments.rate_limits(options.rate_limit),
            "billing_day": options.billing_day,
            "time_zone": options.time_zone,
            "certificate_policy": _certificate_policy(options),
            "token_algorithm": _enum(options.token_algorithm),
        }
    )
    request = {
        "tenant_id": tenant.removeprefix("tenants/"),
        "tenant": settings,
        "request_id": request_id,
        "validate_only": options.validate_only,
    }
    operation = session.call_once(f"{_SERVICE}/CreateTenant", request)
    if options.validate_only:
        session.say("valid; nothing was made")
        session.show(operations.result(operation))
    elif options.wait:
        _show_made(session, operation, timeout=options.timeout)
    else:
        session.show(operation, leave_out=["metadata", "response"])
        session.hint("operations", "watch", operation["name"])


@command(app, "get")
def get_tenant(session: Session, tenant: arguments.Tenant) -> None:
    """Show one tenant."""
    session.show(session.call(f"{_SERVICE}/GetTenant", {"name": tenant}))


@command(app, "list")
def list_tenants(
    session: Session,
    paging: arguments.Paging,
    *,
    show_purged: Annotated[bool, typer.Option("--show-purged", help="Also those of which nothing is left.")] = False,
) -> None:
    """List tenants in the order of their ids."""
    asked = {"show_purged": show_purged}
    session.show_list(f"{_SERVICE}/ListTenants", asked, columns=_COLUMNS, paging=paging)


@command(app, "update")
def update_tenant(session: Session, tenant: arguments.Tenant, *, options: UpdateOptions) -> None:
    """Change a tenant: what the options name, and nothing else."""
    changes: Message = {
        name: value
        for name, value in (
            ("display_name", options.display_name),
            ("tier", options.tier),
            ("admin_email", options.admin_email),
            ("labels", arguments.labels(options.label) if options.label or options.clear_labels else None),
            ("requests_per_minute", options.requests_per_minute),
            ("domains", options.domain if options.domain or options.clear_domains else None),
            ("max_policy_age", arguments.duration(options.max_policy_age)),
            ("connection_pooling", _pooling(options)),
            ("cache_bytes", options.cache_bytes),
            ("rate_limits", _rate_limits(options)),
            ("billing_day", options.billing_day),
            ("time_zone", options.time_zone),
            ("certificate_policy", _changed_certificate_policy(options)),
            ("token_algorithm", _enum(options.token_algorithm) or None),
        )
        if value is not None
    }
    if not changes:
        raise typer.BadParameter("name at least one thing to change, such as --display-name")
    request = {
        "tenant": {"name": tenant, **changes, **without_blanks({"etag": options.etag})},
        "update_mask": ",".join(_camel(path) for path in _paths(changes)),
        "validate_only": options.validate_only,
    }
    life.show_changed(
        session, session.call(f"{_SERVICE}/UpdateTenant", request), wait=options.wait and not options.validate_only
    )
    session.hint("tenants", "get", tenant)


def _show_made(session: Session, operation: Message, *, timeout: timedelta) -> None:
    tenant = operations.result(operations.follow(session, operation, timeout=timeout))
    session.show(tenant)
    session.hint("tokens", "issue", tenant["name"], "--subject", "NAME", "--scope", "certificates.write")


def _pooling(options: CreateOptions | UpdateOptions) -> Message | None:
    """Say which connections a tenant has, and how it uses them; None where nothing of it is named."""
    levels = {None: None, True: "SERIALIZABLE", False: "AS_DECLARED"}
    named = {
        "min_connections": options.min_connections,
        "max_connections": options.max_connections,
        "isolation_level": levels[options.serializable],
    }
    return {name: value for name, value in named.items() if value is not None} or None


def _certificate_policy(options: CreateOptions) -> Message:
    """Say what a new tenant wants of its certificates."""
    named = {
        "authority_algorithm": _enum(options.authority_algorithm),
        "key_algorithms": [_enum(one) for one in options.key_algorithm],
        "post_quantum": _enum(options.post_quantum),
    }
    return without_blanks(named)


def _changed_certificate_policy(options: UpdateOptions) -> Message | None:
    """Say what it wants of them from now on; None where nothing of it is named."""
    named: Message = {}
    if options.key_algorithm or options.clear_key_algorithms:
        named["key_algorithms"] = [_enum(one) for one in options.key_algorithm]
    if options.post_quantum:
        named["post_quantum"] = _enum(options.post_quantum)
    return named or None


def _paths(changes: Message) -> Iterator[str]:
    """Yield what a mask names: of the certificate policy, each part for itself."""
    for name, value in changes.items():
        if name == "certificate_policy":
            yield from (f"{name}.{part}" for part in value)
        else:
            yield name


def _enum(text: str) -> str:
    """Write `ml-dsa-65` as the API has it."""
    return text.upper().replace("-", "_")


def _rate_limits(options: UpdateOptions) -> list[Message] | None:
    """Say which limits it has from now on; None where they stay."""
    return arguments.rate_limits(options.rate_limit) if options.rate_limit or options.clear_rate_limits else None


def _camel(name: str) -> str:
    """Write a field's name as a mask has it in JSON."""
    return re.sub(r"_([a-z])", lambda found: found[1].upper(), name)
