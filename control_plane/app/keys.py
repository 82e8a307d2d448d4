"""What of the control plane sees to tenants' keys: their plans, their services, and what runs for them."""

from collections.abc import Coroutine, Sequence
from dataclasses import dataclass
from datetime import timedelta
from functools import partial
from typing import Any, Final
from uuid import UUID

import grpc

from bulkhead.v1 import (
    encryption_pb2_grpc,
    escrows_pb2_grpc,
    key_imports_pb2_grpc,
    key_policies_pb2_grpc,
    keys_pb2_grpc,
    secrets_pb2_grpc,
    signing_pb2_grpc,
)
from control_plane.app.process import Process
from control_plane.encryption.servicer import EncryptionServicer
from control_plane.escrows.recoveries import Recoveries
from control_plane.escrows.recovering import KeyRecovery
from control_plane.escrows.recovering import Means as RecoveryMeans
from control_plane.escrows.servicer import EscrowServicer
from control_plane.key_policies.gate import KeyGate
from control_plane.key_policies.servicer import KeyPolicyServicer
from control_plane.keyring.disposal import Disposal
from control_plane.keyring.imports_servicer import KeyImportServicer
from control_plane.keyring.named_keys import Making
from control_plane.keyring.rotations.named import all_rotations
from control_plane.keyring.rotations.plan import Means
from control_plane.keyring.servicer import KeyServicer
from control_plane.keys.platform import PlatformKeys
from control_plane.keys.vault import KeyVault
from control_plane.keys.wrapping import Wrapping
from control_plane.operations.jobs import JobQueue
from control_plane.operations.plan import Plans
from control_plane.policies.service import Edges
from control_plane.postgres.database import SystemTransaction
from control_plane.secrets.servicer import SecretServicer
from control_plane.signing.servicer import SigningServicer

# As long as a step of an operation may take without the others waiting; it is taken again.
_EDGES_WITHIN: Final = timedelta(seconds=2)


@dataclass(frozen=True, slots=True, kw_only=True)
class Keys:
    """What is done with the keys of one cell."""

    process: Process
    vault: KeyVault
    platform_keys: PlatformKeys
    queue: JobQueue
    edges: Edges

    @property
    def means(self) -> Means:
        """What rotations are made with."""
        return Means(
            database=self.process.database,
            directory=self.process.directory,
            keys=self.process.keys,
            objects=self.process.objects,
            vault=self.vault,
            platform_keys=self.platform_keys,
            lagging_edges=partial(_lagging, self.edges),
            touched=self.process.sealer.touch,
        )

    def plans(self) -> Plans:
        """Return the plans of the operations on keys."""
        recovery = KeyRecovery(
            RecoveryMeans(
                database=self.process.database,
                keys=self.process.keys,
                wrapping=Wrapping(self.vault),
                platform_keys=self.platform_keys,
                touched=self.process.sealer.touch,
            )
        )
        return {recovery.kind: recovery, **all_rotations(self.means)}

    def add(self, server: grpc.aio.Server, plans: Plans) -> None:
        """Add what tells of keys and what uses them; `plans` are all that there are."""
        keys, page_tokens = self.process.keys, self.process.page_tokens
        making, gate = Making(wrapping=Wrapping(self.vault), pool=keys.pool), KeyGate()
        keyring = KeyServicer(keys, page_tokens, plans, defer=self.defer, making=making)
        keys_pb2_grpc.add_KeyServiceServicer_to_server(keyring, server)
        key_imports_pb2_grpc.add_KeyImportServiceServicer_to_server(KeyImportServicer(keys, making), server)
        escrows = EscrowServicer(Wrapping(self.vault), defer=self.defer)
        escrows_pb2_grpc.add_EscrowServiceServicer_to_server(escrows, server)
        key_policies_pb2_grpc.add_KeyPolicyServiceServicer_to_server(KeyPolicyServicer(page_tokens), server)
        encryption_pb2_grpc.add_EncryptionServiceServicer_to_server(EncryptionServicer(keys, gate), server)
        signing_pb2_grpc.add_SigningServiceServicer_to_server(SigningServicer(keys, gate), server)
        secrets_pb2_grpc.add_SecretServiceServicer_to_server(SecretServicer(keys, gate, page_tokens), server)

    def running(self) -> list[Coroutine[Any, Any, None]]:
        """Return what is to run for as long as the process does."""
        recoveries = Recoveries(Wrapping(self.vault))
        return [
            self.process.keys.pool.run(),
            Disposal(self.means, defer=self.defer).run(),
            recoveries.run(self.process.database, touched=self.process.sealer.touch),
        ]

    async def defer(self, operation_id: UUID, tx: SystemTransaction) -> None:
        """Have an operation looked at once the transaction commits."""
        await self.queue.defer(operation_id, within=tx)


async def _lagging(edges: Edges, revision: int) -> Sequence[str]:
    """Name the edges that have not applied the revision after a while."""
    return (await edges.wait_applied(revision, within=_EDGES_WITHIN)).lagging
