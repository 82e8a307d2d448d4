"""The queue that operations wait in: procrastinate, on the same PostgreSQL.

So a job is deferred in the transaction of the operation that it is for, and any replica picks up where another died.
"""

import asyncio
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from datetime import UTC, datetime, timedelta
from typing import Final
from uuid import UUID

import procrastinate
import structlog
from procrastinate import exceptions

from control_plane.errors import UnavailableError
from control_plane.operations import store
from control_plane.operations.service import AttemptFailedError, OperationRunner
from control_plane.postgres.database import Database, PostgresSettings, SystemTransaction
from control_plane.postgres.pools import connection_arguments

_TASK: Final = "operations.run"
# A worker that has not been heard of for this long is dead, and its jobs are given to others.
_HEARTBEAT: Final = timedelta(seconds=1)
_DEAD_AFTER: Final = timedelta(seconds=5)
_SWEEP_EVERY: Final = timedelta(seconds=1)
# Steps are short and mostly wait for PostgreSQL; more of them at once only crowd out tenants.
_CONCURRENCY: Final = 4

_log: Final = structlog.get_logger("operations.jobs")


class JobQueue:
    """Defers and runs the jobs of operations."""

    def __init__(self, database: Database, settings: PostgresSettings) -> None:
        """Work on the same database, as a role that owns the schema csm_jobs."""
        self._database = database
        arguments = connection_arguments(settings) | {"options": "-c search_path=csm_jobs"}
        connector = procrastinate.PsycopgConnector(kwargs=arguments, min_size=1, max_size=4)
        self._app = procrastinate.App(connector=connector)

    @asynccontextmanager
    async def open(self) -> AsyncIterator[None]:
        """Connect, and make the queue's tables where there are none yet."""
        async with self._app.open_async():
            if not await self._is_made():
                try:
                    await self._app.schema_manager.apply_schema_async()
                except exceptions.ConnectorException:
                    # Of two replicas that start at once one makes the tables.
                    if not await self._is_made():
                        raise
            yield

    async def defer(self, operation_id: UUID, *, within: SystemTransaction | None = None) -> None:
        """Have the operation looked at, once the transaction commits. Does nothing when a job waits already.

        What the database does to the transaction meanwhile is raised as its own queries raise it.
        """
        job = self._app.configure_task(
            _TASK,
            lock=str(operation_id),
            queueing_lock=str(operation_id) if within is None else None,
            connection=None if within is None else within.connection,
        )
        try:
            await job.defer_async(operation_id=str(operation_id))
        except exceptions.AlreadyEnqueued:
            return
        except exceptions.ConnectorException as error:
            # What befalls a transaction is for its own handle to tell: the database lost, or another try.
            if within is not None and error.__cause__ is not None:
                raise error.__cause__ from None
            raise

    async def work(self, runner: OperationRunner) -> None:
        """Run jobs until cancelled, through every loss of the database."""

        @self._app.task(name=_TASK)
        async def run_operation(operation_id: str) -> None:
            try:
                await runner.run(UUID(operation_id))
            except (AttemptFailedError, UnavailableError):
                # Looked at again by the sweep, which finds it running and without a job.
                return

        while True:
            try:
                async with asyncio.TaskGroup() as group:
                    group.create_task(self._run_worker())
                    group.create_task(self._sweep())
            except* (exceptions.ConnectorException, UnavailableError, OSError) as error:
                _log.warning("queue_lost", error=str(error.exceptions[0]))
                await asyncio.sleep(_SWEEP_EVERY.total_seconds())

    async def _is_made(self) -> bool:
        row = await self._app.connector.execute_query_one_async(
            "SELECT to_regclass('csm_jobs.procrastinate_jobs') IS NOT NULL AS is_made"
        )
        return bool(row["is_made"])

    async def _run_worker(self) -> None:
        await self._app.run_worker_async(
            concurrency=_CONCURRENCY,
            install_signal_handlers=False,
            fetch_job_polling_interval=1.0,
            update_heartbeat_interval=_HEARTBEAT.total_seconds(),
            stalled_worker_timeout=_DEAD_AFTER.total_seconds(),
            delete_jobs="always",
        )

    async def _sweep(self) -> None:
        """Give dead workers' jobs to others, and jobs to operations that have none. Looks at everything each time."""
        while True:
            manager = self._app.job_manager
            for job in await manager.get_stalled_jobs(seconds_since_heartbeat=_DEAD_AFTER.total_seconds()):
                _log.warning("job_of_dead_worker", job=job.id)
                await manager.retry_job(job)
            for operation_id in await self._database.system().run(
                lambda tx: store.abandoned(tx, idle_since=datetime.now(UTC) - _SWEEP_EVERY)
            ):
                await self.defer(operation_id)
            await asyncio.sleep(_SWEEP_EVERY.total_seconds())
