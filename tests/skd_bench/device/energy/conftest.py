"""Energy counters of processor packages as files."""

from pathlib import Path

import pytest


def zone(root: Path, number: str, name: str, energy: int, wraps_at: int = 1_000_000) -> Path:
    folder = root / f"intel-rapl:{number}"
    folder.mkdir(parents=True)
    (folder / "name").write_text(name + "\n")
    (folder / "energy_uj").write_text(f"{energy}\n")
    (folder / "max_energy_range_uj").write_text(f"{wraps_at}\n")
    return folder / "energy_uj"


@pytest.fixture(name="zone")
def zone_fixture():
    """Writes the files of a RAPL zone: see `zone`."""
    return zone
