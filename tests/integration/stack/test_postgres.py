"""PostgreSQL as our child: as whom it runs, what it survives, and that it never outlives us."""

import asyncio
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from pathlib import Path

import psutil
import psycopg
import pytest

from control_plane.stack.failures import StackError
from control_plane.stack.postgres import SUPERUSER, Postgres
from control_plane.stack.processes.binaries import postgres_binary
from control_plane.stack.processes.unprivileged import disguise_for

SERVE = Path(__file__).with_name("serve_postgres.py")
WITHOUT_NAMESPACES = Path(__file__).with_name("without_namespaces.py")


def server_in(folder: Path) -> Postgres:
    return Postgres(data_dir=folder / "data", socket_dir=folder, log=folder / "log", settings={"fsync": "off"})


@pytest.fixture(scope="module")
def cluster(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An empty cluster to copy, which is quicker than to make one."""
    postgres = server_in(tmp_path_factory.mktemp("cluster"))
    asyncio.run(postgres.initialise())
    return postgres.data_dir


@pytest.fixture
def postgres(short_dir: Path, cluster: Path) -> Postgres:
    shutil.copytree(cluster, short_dir / "data")
    return server_in(short_dir)


@pytest.fixture
def zombie() -> Iterator[int]:
    """The pid of a process that has ended, and whose parent has not noticed."""
    with subprocess.Popen(["true"]) as process:
        os.waitid(os.P_PID, process.pid, os.WEXITED | os.WNOWAIT)
        yield process.pid


def connect(postgres: Postgres) -> "psycopg.Connection[tuple[object, ...]]":
    return psycopg.connect(
        host=str(postgres.socket_dir), port=postgres.port, user=SUPERUSER, dbname="postgres", autocommit=True
    )


@contextmanager
def serving(
    folder: Path, wrapper: Sequence[str] = (), *, options: Sequence[str] = ()
) -> Iterator[tuple["subprocess.Popen[str]", int]]:
    """Run a server as the child of another process, and give that process with the server's pid."""
    command = [*wrapper, sys.executable, str(SERVE), str(folder), *options]
    with subprocess.Popen(command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True) as parent:
        assert parent.stdout is not None
        yield parent, int(parent.stdout.readline())


def gone(pids: Sequence[int], within_s: float = 5.0) -> bool:
    deadline = time.monotonic() + within_s
    while alive := [pid for pid in pids if _is_alive(pid)]:
        if time.monotonic() > deadline:
            return not alive
        time.sleep(0.02)
    return True


def _is_alive(pid: int) -> bool:
    try:
        return psutil.Process(pid).status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False


async def test_nothing_above_the_data_changes_its_owner_or_mode(short_dir: Path) -> None:
    postgres = server_in(short_dir)
    before = [(path, path.stat().st_uid, path.stat().st_mode) for path in [short_dir, *short_dir.parents]]
    await postgres.initialise()
    server = await postgres.start()
    await server.stop()

    assert [(path, path.stat().st_uid, path.stat().st_mode) for path in [short_dir, *short_dir.parents]] == before
    assert postgres.data_dir.stat().st_uid == disguise_for(short_dir, postgres_binary("postgres")).owner


async def test_only_we_reach_the_socket_and_no_port_is_open(short_dir: Path, postgres: Postgres) -> None:
    server = await postgres.start()
    try:
        socket = short_dir / f".s.PGSQL.{postgres.port}"

        assert socket.stat().st_mode & 0o077 == 0
        assert [c for c in psutil.Process(server.pid).net_connections("inet") if c.status == psutil.CONN_LISTEN] == []
    finally:
        await server.stop()


async def test_initialising_again_leaves_the_cluster_as_it_is(postgres: Postgres) -> None:
    identity = (postgres.data_dir / "global" / "pg_control").read_bytes()
    made = await postgres.initialise()

    assert not made
    assert (postgres.data_dir / "global" / "pg_control").read_bytes() == identity


async def test_a_cluster_that_was_left_half_made_is_made_anew(short_dir: Path) -> None:
    (short_dir / "data.new").mkdir()
    (short_dir / "data.new" / "PG_VERSION").write_text("half a fi")
    made = await server_in(short_dir).initialise()

    assert made
    assert not (short_dir / "data.new").exists()


async def test_rows_survive_a_kill_and_the_server_starts_again(postgres: Postgres) -> None:
    server = await postgres.start()
    with connect(postgres) as connection:
        connection.execute("CREATE TABLE kept AS SELECT generate_series(1, 1000) AS number")
    server.kill()
    how = await server.ended()
    await server.family_gone()
    again = await postgres.start()
    try:
        with connect(postgres) as connection:
            rows = connection.execute("SELECT count(*) FROM kept").fetchone()
    finally:
        await again.stop()

    assert how == -signal.SIGKILL
    assert rows == (1000,)


@pytest.mark.parametrize("left_behind", ["nothing", "stranger", "zombie"])
async def test_a_stale_pid_file_does_not_keep_the_server_from_starting(
    left_behind: str, zombie: int, postgres: Postgres
) -> None:
    """Each of these makes PostgreSQL believe that its predecessor still runs."""
    rest = f"{postgres.data_dir}\n1\n{postgres.port}\n{postgres.socket_dir}\n\n 1 1\nready\n"
    content = {"nothing": "", "stranger": f"{os.getppid()}\n{rest}", "zombie": f"{zombie}\n{rest}"}[left_behind]
    (postgres.data_dir / "postmaster.pid").write_text(content)
    (postgres.socket_dir / f".s.PGSQL.{postgres.port}.lock").write_text(content)
    server = await postgres.start()
    with connect(postgres) as connection:
        answer = connection.execute("SELECT 1").fetchone()
    await server.stop()

    assert answer == (1,)


async def test_a_server_that_cannot_start_says_where_the_reason_is(postgres: Postgres) -> None:
    (postgres.data_dir / "PG_VERSION").write_text("9.1\n")
    with pytest.raises(StackError) as raised:
        await postgres.start()

    assert raised.value.log is not None
    assert "was initialized by PostgreSQL version 9.1" in raised.value.log.read_text()


def test_a_server_dies_with_its_supervisor_however_that_dies(short_dir: Path) -> None:
    with serving(short_dir) as (parent, pid):
        family = [pid, *(child.pid for child in psutil.Process(pid).children(recursive=True))]
        parent.kill()

        assert len(family) > 1
        assert gone(family)


@pytest.fixture
def private_installation(short_dir: Path) -> Path:
    """The server's programs as they are in an environment below a home that only its owner may enter."""
    installed = postgres_binary("postgres").parents[2]
    private = short_dir / "private"
    private.mkdir(mode=0o700)
    for folder in (installed, installed.with_suffix(".libs")):
        shutil.copytree(folder, private / folder.name, symlinks=True)
    return private


def test_root_runs_it_without_user_namespaces_too(short_dir: Path, private_installation: Path) -> None:
    """Anybody else has only the one way, which needs none."""
    wrapper = [sys.executable, str(WITHOUT_NAMESPACES)] if os.geteuid() == 0 else []
    with serving(short_dir, wrapper, options=[str(private_installation)]) as (parent, pid):
        uid = psutil.Process(pid).uids().effective
        assert parent.stdin is not None
        parent.stdin.close()

        assert parent.wait() == 0
        assert uid != 0


def test_root_runs_it_below_the_private_home_of_somebody_else(short_dir: Path) -> None:
    if os.geteuid() == 0:
        os.chown(short_dir, 65534, 65534)
    ours = short_dir / "ours"
    ours.mkdir(mode=0o700)
    with serving(ours) as (parent, _):
        assert parent.stdin is not None
        parent.stdin.close()

        assert parent.wait() == 0
        assert short_dir.stat().st_mode & 0o777 == 0o700


def test_where_it_cannot_be_run_the_error_says_what_to_do(short_dir: Path) -> None:
    with pytest.raises(StackError, match=r"cannot be run here as an ordinary user: .*no-such-program") as raised:
        disguise_for(short_dir, Path("/no-such-program"))

    assert "run this command as an ordinary user" in raised.value.remedy
