"""Settings."""

from pathlib import Path

import pytest

from control_plane.config_file import SettingsError
from control_plane.settings import Settings


def test_a_missing_file_says_who_writes_it(tmp_path: Path) -> None:
    with pytest.raises(SettingsError, match="up` writes it"):
        Settings.from_dir(tmp_path)


@pytest.mark.parametrize("text", ["", "[]", "{}", '{"objects": "x", "postgres": {"port": "none"}}'])
def test_a_broken_file_is_named(tmp_path: Path, text: str) -> None:
    (tmp_path / "config.json").write_text(text)
    with pytest.raises(SettingsError, match=r"config\.json"):
        Settings.from_dir(tmp_path)
