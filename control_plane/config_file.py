"""`config.json` in a state directory: how the processes of a cell are told their settings. `bulkhead up` writes it."""

import json
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final, TypeVar

CONFIG_FILE: Final = "config.json"

Settings = TypeVar("Settings")


class SettingsError(Exception):
    """The settings cannot be used; the text says what to do."""


def read_config(state_dir: Path, settings: Callable[[Path, Mapping[str, Any]], Settings]) -> Settings:
    """Return what `settings` makes of the absolute state directory and the file's content.

    Raises:
        SettingsError: when the file is absent, or `settings` misses something in it.
    """
    path = state_dir / CONFIG_FILE
    try:
        return settings(state_dir.resolve(), json.loads(path.read_text()))
    except FileNotFoundError:
        message = f"{path} does not exist; `bulkhead --dir {state_dir} up` writes it"
        raise SettingsError(message) from None
    except (KeyError, TypeError, ValueError) as error:
        message = f"{path} lacks or misspells {error}; `bulkhead --dir {state_dir} up` writes it anew"
        raise SettingsError(message) from error
