"""Where the agent's sockets are, nobody else goes in."""

import stat
from pathlib import Path

import pytest

from ext_authz.sockets import private_folder


@pytest.mark.parametrize("before", [None, 0o755, 0o777, 0o710])
def test_a_folder_of_sockets_is_for_its_owner_also_where_it_was_not(before: int | None, tmp_path: Path) -> None:
    folder = tmp_path / "sockets"
    if before is not None:
        folder.mkdir()
        folder.chmod(before)
    private_folder(folder)

    assert stat.S_IMODE(folder.stat().st_mode) == 0o700
