"""What tests of the whole house share: a clean copy of the tree, and where its files are."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest
from hypothesis import settings

ROOT = Path(__file__).resolve().parents[1]
# A busy machine is no bug: no example is judged by how long it took.
settings.register_profile("house", deadline=None)
settings.load_profile("house")

_LEFT_OUT = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "runs")


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def tree() -> list[Path]:
    """Every file that is or would be in the repository, relative to it."""
    words = ["git", "-C", str(ROOT), "ls-files", "-z", "--cached", "--others", "--exclude-standard"]
    listed = subprocess.run(words, capture_output=True, check=True).stdout if (ROOT / ".git").exists() else b""
    if listed:
        files = [Path(os.fsdecode(name)) for name in listed.split(b"\0") if name]
        return sorted(f for f in files if os.path.lexists(ROOT / f))
    found = (p for top in ROOT.iterdir() if not _LEFT_OUT(str(ROOT), [top.name]) for p in (top, *top.rglob("*")))
    return sorted(
        p.relative_to(ROOT) for p in found if p.is_symlink() or (p.is_file() and "__pycache__" not in p.parts)
    )


@pytest.fixture(scope="session")
def clone(tree, tmp_path_factory) -> Path:
    """A copy of the tree as a clone would be, in a folder with a space in its name."""
    copy = tmp_path_factory.mktemp("clone") / "a clone"
    for file in tree:
        target = copy / file
        target.parent.mkdir(parents=True, exist_ok=True)
        shutil.copy2(ROOT / file, target, follow_symlinks=False)
    return copy
