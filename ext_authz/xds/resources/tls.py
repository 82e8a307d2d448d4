"""TLS on both sides: towards tenants, and towards the platform's services. Keys come as secrets, over the same stream.

A certificate is replaced by pushing another secret: Envoy uses it for the next connection, and keeps the ones it has.
"""

from datetime import timedelta
from pathlib import Path
from typing import Final

from envoy_data_plane.envoy.config.core.v3 import ConfigSource, DataSource, TransportSocket
from envoy_data_plane.envoy.extensions.transport_sockets.tls.v3 import (
    CertificateValidationContext,
    CommonTlsContext,
    CommonTlsContextCombinedCertificateValidationContext,
    DownstreamTlsContext,
    SdsSecretConfig,
    Secret,
    SubjectAltNameMatcher,
    SubjectAltNameMatcherSanType,
    TlsCertificate,
    TlsParameters,
    TlsParametersTlsProtocol,
    UpstreamTlsContext,
)
from envoy_data_plane.envoy.type.matcher.v3 import StringMatcher
from envoy_data_plane.google.protobuf import Any

EDGE_CERTIFICATE: Final = "edge_certificate"
EDGE_CLIENT_CA: Final = "edge_client_ca"
UPSTREAM_CERTIFICATE: Final = "upstream_certificate"
UPSTREAM_CA: Final = "upstream_ca"

_NAME: Final = "envoy.transport_sockets.tls"
# A client certificate is looked at when a session starts, and not when it is resumed.
_SESSION: Final = timedelta(minutes=10)


def downstream(source: ConfigSource | None) -> TransportSocket:
    """Return the listener's side. A client may show a certificate; one of another authority ends the connection.

    Whose certificate it is, is left to the agent: it knows the tenant.
    """
    context = DownstreamTlsContext(
        common_tls_context=CommonTlsContext(
            tls_params=_versions(TlsParametersTlsProtocol.TLSv1_2),
            alpn_protocols=["h2", "http/1.1"],
            tls_certificate_sds_secret_configs=[_secret(EDGE_CERTIFICATE, source)],
            validation_context_sds_secret_config=_secret(EDGE_CLIENT_CA, source),
        ),
        require_client_certificate=False,
        session_timeout=_SESSION,
    )
    return TransportSocket(name=_NAME, typed_config=Any.pack(context))


def upstream(identity: str, source: ConfigSource | None) -> TransportSocket:
    """Return the side towards a service that must prove to be `identity`, a URI."""
    context = UpstreamTlsContext(
        common_tls_context=CommonTlsContext(
            tls_params=_versions(TlsParametersTlsProtocol.TLSv1_3),
            tls_certificate_sds_secret_configs=[_secret(UPSTREAM_CERTIFICATE, source)],
            combined_validation_context=CommonTlsContextCombinedCertificateValidationContext(
                default_validation_context=CertificateValidationContext(
                    match_typed_subject_alt_names=[
                        SubjectAltNameMatcher(
                            san_type=SubjectAltNameMatcherSanType.URI, matcher=StringMatcher(exact=identity)
                        )
                    ]
                ),
                validation_context_sds_secret_config=_secret(UPSTREAM_CA, source),
            ),
        ),
        sni="localhost",
    )
    return TransportSocket(name=_NAME, typed_config=Any.pack(context))


def certificate_secret(name: str, certificate: Path, key: Path) -> Secret:
    """Read a certificate and its key."""
    pair = TlsCertificate(certificate_chain=_contents(certificate), private_key=_contents(key))
    return Secret(name=name, tls_certificate=pair)


def authority_secret(name: str, certificates: Path) -> Secret:
    """Read the authorities that the other side's certificate must come from."""
    return Secret(name=name, validation_context=CertificateValidationContext(trusted_ca=_contents(certificates)))


def _versions(lowest: TlsParametersTlsProtocol) -> TlsParameters:
    return TlsParameters(
        tls_minimum_protocol_version=lowest, tls_maximum_protocol_version=TlsParametersTlsProtocol.TLSv1_3
    )


def _secret(name: str, source: ConfigSource | None) -> SdsSecretConfig:
    return SdsSecretConfig(name=name, sds_config=source)


def _contents(path: Path) -> DataSource:
    return DataSource(inline_bytes=path.read_bytes())
