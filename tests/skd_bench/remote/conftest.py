"""A folder on a device, and running a pack as the device would."""

import os
import subprocess
from pathlib import Path

import pytest


def run_in_clean_environment(python, pack: Path, *arguments, tmp: Path) -> subprocess.CompletedProcess:
    """Run a pack in its folder with a folder for temporary files and no other variable of this environment."""
    command = [python, pack.name, *arguments]
    environment = {"TMPDIR": str(tmp), "HOME": str(tmp), "PATH": os.defpath}
    return subprocess.run(command, cwd=pack.parent, env=environment, capture_output=True, text=True, check=False)


@pytest.fixture
def run_pack_file():
    """Runs a pack as on a device: see `run_in_clean_environment`."""
    return run_in_clean_environment


@pytest.fixture
def there(tmp_path) -> Path:
    """A folder on the device, with a space and a non-ASCII letter in its name."""
    folder = tmp_path / "über there"
    folder.mkdir()
    return folder
