"""The HTTP filters, in the order that a request meets them; an answer meets them in the opposite order.

The order is the security: what comes first may not need what comes later, and strangers are stopped before they cost.
"""

import re
from collections.abc import Iterable, Iterator, Mapping, Sequence
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Final

from envoy_data_plane.envoy.config.common.mutation_rules.v3 import HeaderMutation, HeaderMutationRemoveOnMatch
from envoy_data_plane.envoy.config.core.v3 import (
    ApiVersion,
    DataSource,
    GrpcService,
    GrpcServiceEnvoyGrpc,
    HeaderValue,
    HeaderValueOption,
    HeaderValueOptionHeaderAppendAction,
    RuntimeFractionalPercent,
    TypedExtensionConfig,
)
from envoy_data_plane.envoy.config.rbac.v3 import Permission, Policy, Principal, PrincipalSet, Rbac, RbacAction
from envoy_data_plane.envoy.config.route.v3 import (
    HeaderMatcher,
    RateLimit,
    RateLimitAction,
    RateLimitActionMaskedRemoteAddress,
)
from envoy_data_plane.envoy.extensions.common.ratelimit.v3 import LocalRateLimitDescriptor, RateLimitDescriptorEntry
from envoy_data_plane.envoy.extensions.filters.http.composite.v3 import (
    Composite,
    CompositePerRoute,
    ExecuteFilterAction,
    FilterChainConfiguration,
)
from envoy_data_plane.envoy.extensions.filters.http.ext_authz.v3 import ExtAuthz
from envoy_data_plane.envoy.extensions.filters.http.grpc_json_transcoder.v3 import (
    GrpcJsonTranscoder,
    GrpcJsonTranscoderPrintOptions,
    GrpcJsonTranscoderRequestValidationOptions,
)
from envoy_data_plane.envoy.extensions.filters.http.header_mutation.v3 import HeaderMutation as HeaderMutationFilter
from envoy_data_plane.envoy.extensions.filters.http.header_mutation.v3 import Mutations
from envoy_data_plane.envoy.extensions.filters.http.local_ratelimit.v3 import LocalRateLimit
from envoy_data_plane.envoy.extensions.filters.http.lua.v3 import Lua
from envoy_data_plane.envoy.extensions.filters.http.on_demand.v3 import OnDemand
from envoy_data_plane.envoy.extensions.filters.http.rbac.v3 import Rbac as RoleBasedAccessControl
from envoy_data_plane.envoy.extensions.filters.http.router.v3 import Router
from envoy_data_plane.envoy.extensions.filters.http.upstream_codec.v3 import UpstreamCodec
from envoy_data_plane.envoy.extensions.filters.network.http_connection_manager.v3 import HttpFilter
from envoy_data_plane.envoy.type.matcher.v3 import RegexMatcher, StringMatcher
from envoy_data_plane.envoy.type.v3 import (
    FractionalPercent,
    FractionalPercentDenominatorType,
    HttpStatus,
    StatusCode,
    TokenBucket,
)
from envoy_data_plane.google.protobuf import Any
from envoy_data_plane.xds.core.v3 import TypedExtensionConfig as Action
from envoy_data_plane.xds.type.matcher.v3 import Matcher, MatcherOnMatch
from google.api import annotations_pb2, http_pb2
from google.protobuf.descriptor import FileDescriptor, MethodDescriptor
from google.protobuf.descriptor_pb2 import FileDescriptorSet
from google.rpc import error_details_pb2, status_pb2

from bulkhead.v1 import certificates_pb2
from ext_authz.leases.classes import LeasedRpc, classes_by_collection, leased_rpcs
from ext_authz.leases.grants import GRANT
from ext_authz.xds.resources import clusters
from ext_authz.xds.resources.limits import Limits

# Asks the agent, but on routes that leave it out.
ASKING: Final = "bulkhead.asking"
SERVICES: Final = (certificates_pb2.DESCRIPTOR.services_by_name["CertificateService"],)
LEASED_RPCS: Final = leased_rpcs(SERVICES)
CONTEXT: Final = "x-bulkhead-context"
GRPC: Final = r"application/grpc(\+.*)?"
OURS: Final = "x-bulkhead-"
ENVOYS: Final = "x-envoy-"

# What the script shows.
LEASE: Final = "x-bulkhead-lease"
HELD_FOR: Final = "x-bulkhead-retry-after"
_SHOWN: Final = (LEASE, HELD_FOR, CONTEXT)
LUA: Final = "envoy.filters.http.lua"
RBAC: Final = "envoy.filters.http.rbac"

_CLASSES: Final = "local OF_GET, OF_GRPC = {}, {} -- written by `ext_authz/xds/resources/filters.py`\n"
_PLAIN: Final = "local IS_TLS = false"
_HEADER_MUTATION: Final = "envoy.filters.http.header_mutation"
_CHECK_TIMEOUT: Final = timedelta(milliseconds=250)
_ANSWERS: Final = {"x-content-type-options": "nosniff", "cache-control": "no-store"}


def http_filters(lua: str, limits: Limits) -> list[HttpFilter]:
    """Return the chain; `lua` is the text of `tenant.lua`."""
    return [
        HttpFilter(name=_HEADER_MUTATION, typed_config=Any.pack(_every_answer())),
        HttpFilter(
            name=LUA,
            typed_config=Any.pack(Lua(default_source_code=DataSource(inline_string=lua))),
        ),
        HttpFilter(name="envoy.filters.http.local_ratelimit", typed_config=Any.pack(_source_limit(limits))),
        HttpFilter(name="envoy.filters.http.on_demand", typed_config=Any.pack(OnDemand())),
        HttpFilter(name=ASKING, typed_config=Any.pack(_asking())),
        HttpFilter(name=RBAC, typed_config=Any.pack(_admission())),
        HttpFilter(name="envoy.filters.http.grpc_json_transcoder", typed_config=Any.pack(_transcoder(limits))),
        HttpFilter(name="envoy.filters.http.router", typed_config=Any.pack(_router())),
    ]


def removal(*prefixes: str) -> list[HeaderMutation]:
    """Return the removal of every header whose name starts so."""
    return [_removal(StringMatcher(prefix=prefix)) for prefix in prefixes]


def _removal(name: StringMatcher) -> HeaderMutation:
    return HeaderMutation(remove_on_match=HeaderMutationRemoveOnMatch(key_matcher=name))


def _every_answer() -> HeaderMutationFilter:
    """Set what every answer carries. First in the chain, and so the last to touch an answer, wherever it comes from."""
    overwrite = HeaderValueOptionHeaderAppendAction.OVERWRITE_IF_EXISTS_OR_ADD
    headers = [
        HeaderMutation(append=HeaderValueOption(header=HeaderValue(key=key, value=value), append_action=overwrite))
        for key, value in _ANSWERS.items()
    ]
    # The script has taken it by then; it is nobody else's.
    headers.append(HeaderMutation(remove=GRANT))
    return HeaderMutationFilter(mutations=Mutations(response_mutations=headers))


def _source_limit(limits: Limits) -> LocalRateLimit:
    """Bound each source address, before anything is looked up for it. It needs no route."""
    bucket = TokenBucket(
        max_tokens=limits.request_burst,
        tokens_per_fill=limits.requests_per_second,
        fill_interval=timedelta(seconds=1),
    )
    address = RateLimitActionMaskedRemoteAddress(v4_prefix_mask_len=32, v6_prefix_mask_len=64)
    return LocalRateLimit(
        stat_prefix="source",
        filter_enabled=_always("source_limit.enabled"),
        filter_enforced=_always("source_limit.enforced"),
        rate_limits=[RateLimit(actions=[RateLimitAction(masked_remote_address=address)])],
        # An entry without a value has a bucket for each value.
        descriptors=[
            LocalRateLimitDescriptor(
                entries=[RateLimitDescriptorEntry(key="masked_remote_address")], token_bucket=bucket
            )
        ],
        max_dynamic_descriptors=limits.source_addresses,
        always_consume_default_token_bucket=False,
        rate_limited_as_resource_exhausted=True,
    )


def _always(key: str) -> RuntimeFractionalPercent:
    hundred = FractionalPercent(numerator=100, denominator=FractionalPercentDenominatorType.HUNDRED)
    return RuntimeFractionalPercent(default_value=hundred, runtime_key=f"bulkhead.{key}")


def _asking() -> Composite:
    """Make what asks the agent, for each request whose route does not say otherwise. Made in vain, it costs 6 µs.

    Before it is asked goes what the script has shown and no route has taken: it says nothing, to anybody, and the
    context that stands is the agent's. `ext_authz` comes last: when it has its answer, the request goes on behind the
    whole of this chain, and what stood in it after `ext_authz` would be left out (1.40).
    """
    untaken = Mutations(request_mutations=[HeaderMutation(remove=name) for name in _SHOWN])
    chain = [
        TypedExtensionConfig(name=_HEADER_MUTATION, typed_config=Any.pack(HeaderMutationFilter(mutations=untaken))),
        TypedExtensionConfig(name="envoy.filters.http.ext_authz", typed_config=Any.pack(_ext_authz())),
    ]
    always = Any.pack(ExecuteFilterAction(filter_chain=FilterChainConfiguration(typed_config=chain)))
    return Composite(matcher=Matcher(on_no_match=MatcherOnMatch(action=Action(name="ask", typed_config=always))))


def unasked() -> Any:
    """Return what a route says to `ASKING` that leaves the agent out: nothing is to be made."""
    return Any.pack(CompositePerRoute(matcher=Matcher()))


def _ext_authz() -> ExtAuthz:
    """Ask the agent. What it does not answer in time, or at all, is closed, and says so: 503, not a denial."""
    return ExtAuthz(
        stat_prefix="agent",
        transport_api_version=ApiVersion.V3,
        grpc_service=GrpcService(
            envoy_grpc=GrpcServiceEnvoyGrpc(cluster_name=clusters.EXT_AUTHZ),
            timeout=_CHECK_TIMEOUT,
            initial_metadata=[
                HeaderValue(key="x-envoy-upstream-rq-per-try-timeout-ms", value=str(clusters.TRY_TIMEOUT_MS))
            ],
        ),
        failure_mode_allow=False,
        status_on_error=HttpStatus(code=StatusCode.ServiceUnavailable),
        validate_mutations=True,
        # Else a header that was sent twice arrives as one, and what is not UTF-8 as something else.
        encode_raw_headers=True,
        include_peer_certificate=True,
        include_tls_session=True,
        clear_route_cache=False,
    )


def _admission() -> RoleBasedAccessControl:
    """Let on only what the agent has given a context, and what the transcoder reads as the agent has read it.

    Without a context goes nothing: neither what an empty answer of the agent's lets through, nor what has no route,
    whose body the transcoder would else read, and complain about, before it is refused. Nor does what still shows a
    lease here: nobody has asked about it.

    A parameter of the query may not name a field that is in the path: the transcoder would append it, and in protocol
    buffers the last one counts (`/api/v1/tenants/a/certificates?parent=tenants/b`). Nor may a parameter's name be
    written with `%`. A REST path with gRPC's content type would pass the transcoder by.
    """
    context, shown = (Principal(header=HeaderMatcher(name=name, present_match=True)) for name in (CONTEXT, LEASE))
    rest = Principal(header=HeaderMatcher(name=":path", string_match=StringMatcher(prefix="/api/")))
    untranscoded = Principal(and_ids=PrincipalSet(ids=[rest, _matching("content-type", GRPC)]))
    wrong = (shown, _matching(":path", _twice_bound()), untranscoded)
    admitted = [context, *(Principal(not_id=one) for one in wrong)]
    policy = Policy(permissions=[Permission(any=True)], principals=[Principal(and_ids=PrincipalSet(ids=admitted))])
    return RoleBasedAccessControl(rules=Rbac(action=RbacAction.ALLOW, policies={"admission": policy}))


def _matching(header: str, regex: str) -> Principal:
    matcher = StringMatcher(safe_regex=RegexMatcher(regex=regex))
    return Principal(header=HeaderMatcher(name=header, string_match=matcher))


def _twice_bound() -> str:
    """Return a pattern of paths whose query names a field that is in the path, or may name one."""
    fields = sorted({name for service in SERVICES for method in service.methods for name in _in_path(method)})
    return rf"[^?]*\?(.*&)?({'|'.join(fields)}|[^=&]*%[^=&]*)([=&].*)?"


def _in_path(method: MethodDescriptor) -> Iterator[str]:
    """Yield the fields that REST's path is made of, under both names that each has in JSON."""
    rule: http_pb2.HttpRule = method.GetOptions().Extensions[annotations_pb2.http]  # type: ignore[index]  # no stubs
    for binding in (rule, *rule.additional_bindings):
        template = binding.get or binding.put or binding.post or binding.delete or binding.patch
        for name in re.findall(r"\{(\w+)", template):
            yield name
            yield method.input_type.fields_by_name[name].json_name


def _transcoder(limits: Limits) -> GrpcJsonTranscoder:
    """Turn REST into gRPC. The route stays the one that was authorised: it is not chosen again by the gRPC path."""
    return GrpcJsonTranscoder(
        proto_descriptor_bin=_descriptors(),
        services=[service.full_name for service in SERVICES],
        match_incoming_request_route=True,
        convert_grpc_status=True,
        print_options=GrpcJsonTranscoderPrintOptions(always_print_primitive_fields=True),
        request_validation_options=GrpcJsonTranscoderRequestValidationOptions(
            reject_unknown_method=True,
            reject_unknown_query_parameters=True,
            reject_binding_body_field_collisions=True,
        ),
        max_request_body_size=limits.request_body_bytes,
        max_response_body_size=limits.response_body_bytes,
    )


@cache
def _descriptors() -> bytes:
    """Return the services' descriptors and all that they need, each after what it imports; errors' details too."""
    found: dict[str, FileDescriptor] = {}
    _collect([service.file for service in SERVICES], found)
    _collect([status_pb2.DESCRIPTOR, error_details_pb2.DESCRIPTOR], found)
    described = FileDescriptorSet()
    for file in found.values():
        file.CopyToProto(described.file.add())
    return described.SerializeToString(deterministic=True)


def _collect(files: Iterable[FileDescriptor], found: dict[str, FileDescriptor]) -> None:
    for file in files:
        if file.name not in found:
            _collect(file.dependencies, found)
            found[file.name] = file


def _router() -> Router:
    """Send it on, without what only we may say to a client and without what only Envoy may say to a service.

    Removed where answers come in, so that what the agent adds to them afterwards is its own. A client's trailers, which
    no request of ours has, do not go on at all.
    """
    mutations = Mutations(
        request_trailers_mutations=[_removal(StringMatcher(safe_regex=RegexMatcher(regex=".*")))],
        response_mutations=removal(OURS, ENVOYS),
        response_trailers_mutations=removal(OURS, ENVOYS),
    )
    return Router(
        suppress_envoy_headers=True,
        respect_expected_rq_timeout=False,
        upstream_http_filters=[
            HttpFilter(name=_HEADER_MUTATION, typed_config=Any.pack(HeaderMutationFilter(mutations=mutations))),
            HttpFilter(name="envoy.filters.http.upstream_codec", typed_config=Any.pack(UpstreamCodec())),
        ],
    )


def read_lua(rpcs: Sequence[LeasedRpc] = LEASED_RPCS) -> str:
    """Read `tenant.lua`, beside this module in an installed package, else where its source is, with what may be leased.

    It is for connections without TLS: see `over_tls`.

    Raises:
        RuntimeError: it has no place for that.
    """
    here = Path(__file__).parent
    installed = here / "tenant.lua"
    source = here.parents[2] / "envoy" / "filters" / "tenant.lua"
    text = (installed if installed.exists() else source).read_text()
    if text.count(_CLASSES) != 1 or text.count(_PLAIN) != 1:
        message = "tenant.lua has no place for what is filled in"
        raise RuntimeError(message)
    of_get = _table(classes_by_collection(rpcs))
    of_grpc = _table({rpc.path: rpc.lease_class for rpc in rpcs})
    return text.replace(_CLASSES, f"local OF_GET, OF_GRPC = {of_get}, {of_grpc}\n")


def over_tls(lua: str) -> str:
    """Return the script for connections over TLS: there a lease is for the name in the handshake, too."""
    return lua.replace(_PLAIN, _PLAIN.replace("false", "true"))


def _table(values: Mapping[str, str]) -> str:
    # None of them has a character that would end a string.
    return "{" + ", ".join(f'["{key}"] = "{value}"' for key, value in values.items()) + "}"
