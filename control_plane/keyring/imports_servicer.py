"""KeyImportService over gRPC."""

from datetime import UTC, datetime
from typing import Final

from typing_extensions import override

from bulkhead.v1 import key_imports_pb2, key_imports_pb2_grpc, keys_pb2
from control_plane.errors import FieldViolation, InvalidArgumentError, NotFoundError, Violations
from control_plane.ids import uuid_of
from control_plane.keyring import imports
from control_plane.keyring.imports import Begun, Delivery, Wanted
from control_plane.keyring.named_keys import Making
from control_plane.keyring.servicer import key_to_proto
from control_plane.keys.named.imports import LARGEST_WRAPPED, Method
from control_plane.keys.named.model import check_key_id, check_kind
from control_plane.keys.service import TenantKeys
from control_plane.serving import names
from control_plane.serving.call import Call, current_call
from control_plane.serving.interception import Context

_FIELD: Final = "import_job"


class KeyImportServicer(key_imports_pb2_grpc.KeyImportServiceServicer):
    """See key_imports.proto."""

    def __init__(self, keys: TenantKeys, making: Making) -> None:
        """Say what `keys` rest on; take in keys by `making`."""
        self._keys = keys
        self._making = making

    @override
    async def CreateImportJob(
        self, request: key_imports_pb2.CreateImportJobRequest, context: Context
    ) -> key_imports_pb2.ImportJob:
        call, now = current_call(), datetime.now(UTC)
        wanted = _wanted(request.import_job, call)
        if request.validate_only:
            await imports.check_import(call.system(), wanted, now=now)
            return request.import_job
        return _job_to_proto(await imports.begin_import(call.system(), wanted, making=self._making, now=now), wanted)

    @override
    async def ImportKey(self, request: key_imports_pb2.ImportKeyRequest, context: Context) -> keys_pb2.Key:
        call = current_call()
        import_id = uuid_of(names.parse(names.IMPORT_JOB, request.name)["job"])
        if not 0 < len(request.wrapped_key) <= LARGEST_WRAPPED:
            text = f"must have 1 to {LARGEST_WRAPPED} bytes"
            raise InvalidArgumentError(FieldViolation(field="wrapped_key", description=text, reason="SIZE"))
        if import_id is None:
            raise NotFoundError(request.name)
        placement = call.require_placement()
        delivery = Delivery(placement=placement, import_id=import_id, actor=call.actor, wrapped=request.wrapped_key)
        key = await imports.import_key(call.system(), delivery, making=self._making, now=datetime.now(UTC))
        self._keys.look_again(placement.uid)
        return key_to_proto(key, self._keys.root_of_trust(placement.uid))


def _wanted(job: key_imports_pb2.ImportJob, call: Call) -> Wanted:
    violations, placement = Violations(), call.require_placement()
    parent, _, key_id = job.key.rpartition("/keys/")
    if parent != call.tenant_name:
        violations.add(f"{_FIELD}.key", f"must be like {call.tenant_name}/keys/{{key}}", reason="NAME")
    else:
        check_key_id(key_id, violations, field=f"{_FIELD}.key")
    purpose = keys_pb2.KeyPurpose.Name(job.purpose) if job.purpose in keys_pb2.KeyPurpose.values() else ""
    kind = check_kind(purpose, job.algorithm, violations, path=_FIELD)
    method = _method(job.method, violations)
    violations.check()
    if kind is None or method is None:
        message = "an import that cannot be has nothing wrong with it"
        raise RuntimeError(message)
    return Wanted(placement=placement, key_id=key_id, kind=kind, method=method)


def _method(asked: key_imports_pb2.ImportJob.Method.ValueType, violations: Violations) -> Method | None:
    if asked == key_imports_pb2.ImportJob.METHOD_UNSPECIFIED:
        return Method.HPKE_AES
    if asked not in key_imports_pb2.ImportJob.Method.values():
        violations.add(f"{_FIELD}.method", "must be one of " + ", ".join(Method), reason="METHOD")
        return None
    return Method(key_imports_pb2.ImportJob.Method.Name(asked))


def _job_to_proto(begun: Begun, wanted: Wanted) -> key_imports_pb2.ImportJob:
    made, tenant_id = begun.made, wanted.placement.tenant_id
    message = key_imports_pb2.ImportJob(
        name=f"tenants/{tenant_id}/importJobs/{made.id}",
        key=wanted.name,
        purpose=keys_pb2.KeyPurpose.Value(made.kind.purpose.upper()),
        algorithm=made.kind.algorithm,
        method=key_imports_pb2.ImportJob.Method.Value(made.method),
        public_key=begun.public,
        hpke_info=made.info(tenant_id),
    )
    message.expire_time.FromDatetime(made.expire_time)
    return message
