"""IsolationService over gRPC."""

import json
from collections.abc import Mapping
from datetime import UTC, datetime, timedelta
from functools import partial
from typing import Any, Final

from cryptography.hazmat.primitives.serialization import Encoding, PublicFormat
from typing_extensions import override

from bulkhead.v1 import isolation_pb2, isolation_pb2_grpc
from control_plane.breaches import store as breaches_store
from control_plane.breaches.model import Breach
from control_plane.errors import NotFoundError
from control_plane.ids import uuid_of
from control_plane.isolation import store
from control_plane.isolation.model import PAYLOAD_TYPE, Attestation
from control_plane.isolation.service import CELL, Verifier
from control_plane.keys.platform import AttestationKey, PlatformKeys
from control_plane.serving import names
from control_plane.serving.call import current_call
from control_plane.serving.interception import Context
from control_plane.serving.paging import PageTokens

_CELL_NAME: Final = f"cells/{CELL}"


class IsolationServicer(isolation_pb2_grpc.IsolationServiceServicer):
    """See isolation.proto."""

    def __init__(self, verifier: Verifier, keys: PlatformKeys, page_tokens: PageTokens) -> None:
        """Verify with `verifier`; tell the keys of `keys`."""
        self._verifier = verifier
        self._keys = keys
        self._page_tokens = page_tokens

    @override
    async def VerifyIsolation(
        self, request: isolation_pb2.VerifyIsolationRequest, context: Context
    ) -> isolation_pb2.Attestation:
        call = current_call()
        return to_proto(await self._verifier.verify_tenant(call.require_placement(), call.system()), call.tenant_name)

    @override
    async def VerifyCell(self, request: isolation_pb2.VerifyCellRequest, context: Context) -> isolation_pb2.Attestation:
        names.parse(names.CELL, request.cell, field="cell")
        if request.cell != _CELL_NAME:
            raise NotFoundError(request.cell)
        return to_proto(await self._verifier.verify_cell(current_call().system()), _CELL_NAME)

    @override
    async def GetAttestation(
        self, request: isolation_pb2.GetAttestationRequest, context: Context
    ) -> isolation_pb2.Attestation:
        call = current_call()
        attestation_id = uuid_of(names.parse(names.ATTESTATION, request.name)["attestation"])
        if attestation_id is None:
            raise NotFoundError(request.name)
        find = partial(store.find, tenant_uid=call.require_placement().uid, attestation_id=attestation_id)
        attestation = await call.system().run(find)
        if attestation is None:
            raise NotFoundError(request.name)
        return to_proto(attestation, call.tenant_name)

    @override
    async def ListAttestations(
        self, request: isolation_pb2.ListAttestationsRequest, context: Context
    ) -> isolation_pb2.ListAttestationsResponse:
        call = current_call()
        page = self._page_tokens.page(request, method=call.method, parent=call.tenant_name, now=datetime.now(UTC))
        uid = call.require_placement().uid
        found = await call.system().run(lambda tx: store.list_page(tx, uid, before=page.before, limit=page.limit))
        shown, next_page_token = page.cut(found, lambda attestation: attestation.id)
        return isolation_pb2.ListAttestationsResponse(
            attestations=[to_proto(attestation, call.tenant_name) for attestation in shown],
            next_page_token=next_page_token,
        )

    @override
    async def ListAttestationKeys(
        self, request: isolation_pb2.ListAttestationKeysRequest, context: Context
    ) -> isolation_pb2.ListAttestationKeysResponse:
        keys = await self._keys.attestation_keys()
        return isolation_pb2.ListAttestationKeysResponse(attestation_keys=[self._key_to_proto(key) for key in keys])

    @override
    async def ListBreaches(
        self, request: isolation_pb2.ListBreachesRequest, context: Context
    ) -> isolation_pb2.ListBreachesResponse:
        call = current_call()
        page = self._page_tokens.page(request, method=call.method, parent="", now=datetime.now(UTC))
        found = await call.system().run(lambda tx: breaches_store.list_page(tx, before=page.before, limit=page.limit))
        shown, next_page_token = page.cut(found, lambda breach: breach.id)
        return isolation_pb2.ListBreachesResponse(
            breaches=[_breach_to_proto(breach) for breach in shown], next_page_token=next_page_token
        )

    def _key_to_proto(self, key: AttestationKey) -> isolation_pb2.AttestationKey:
        pem = key.public_key.public_bytes(Encoding.PEM, PublicFormat.SubjectPublicKeyInfo)
        message = isolation_pb2.AttestationKey(
            key_id=str(key.key_id), public_key_pem=pem.decode(), hsm_backed=self._keys.hsm_backed
        )
        message.create_time.FromDatetime(key.create_time)
        return message


def to_proto(attestation: Attestation, parent: str) -> isolation_pb2.Attestation:
    """Show an attestation of the tenant, or cell, named `parent`: beside what was signed, the same in fields."""
    payload: Mapping[str, Any] = json.loads(attestation.payload)
    message = isolation_pb2.Attestation(
        name=f"{parent}/attestations/{attestation.id}",
        passed=attestation.passed,
        probes=[_probe_to_proto(probe) for probe in payload["probes"]],
        payload_type=PAYLOAD_TYPE,
        payload=attestation.payload,
        signature=attestation.signature,
        key_id=str(attestation.key_id),
        hsm_backed=payload["hsm_backed"],
    )
    message.create_time.FromDatetime(attestation.create_time)
    message.duration.FromTimedelta(timedelta(milliseconds=payload["duration_ms"]))
    return message


def _probe_to_proto(probe: Mapping[str, Any]) -> isolation_pb2.IsolationProbe:
    message = isolation_pb2.IsolationProbe(
        name=probe["name"],
        promise=probe["promise"],
        outcome=isolation_pb2.IsolationProbe.Outcome.Value(probe["outcome"]),
        detail=probe["detail"],
    )
    message.duration.FromTimedelta(timedelta(milliseconds=probe["duration_ms"]))
    return message


def _breach_to_proto(breach: Breach) -> isolation_pb2.Breach:
    message = isolation_pb2.Breach(
        name=breach.name,
        owner=breach.owner,
        finder=breach.finder,
        channel=breach.kind.channel,
        method=breach.kind.method,
        request_id=breach.request_id,
        count=breach.count,
    )
    message.create_time.FromDatetime(breach.first_time)
    message.update_time.FromDatetime(breach.last_time)
    return message
