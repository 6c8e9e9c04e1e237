"""A few broken files for each reader; bench/suites/robustness/fuzz_readers.py gives each two thousand."""

from __future__ import annotations

import os
import threading

import pytest

FILES = 20


@pytest.fixture(scope="module")
def readers(tmp_path_factory):
    from bench.suites.robustness.readers import make_readers

    return make_readers(tmp_path_factory.mktemp("fuzz") / "intact")


def test_intact_files_are_read(readers, tmp_path):
    """Else the suite would test nothing."""
    for reader in readers:
        for name, content in reader.files.items():
            home = tmp_path / reader.name / name
            home.mkdir(parents=True)
            (home / name).write_bytes(content)
            reader.read(home / name)


def test_broken_files_are_read_or_refused(readers, tmp_path):
    from bench.suites.robustness import fuzz_readers

    for reader in readers:
        outcomes = [fuzz_readers.read_one(reader, number, tmp_path) for number in range(FILES)]
        assert {o for o in outcomes if o not in ("read", "refused")} == set(), reader.name
        assert "refused" in outcomes


def test_a_hang_and_a_crash_are_counted(tmp_path, monkeypatch):
    from bench.suites.robustness import fuzz_readers
    from bench.suites.robustness.readers import Reader

    def read(path):
        first = path.read_bytes()[:1]
        if first == b"h":
            threading.Event().wait()
        elif first == b"c":
            os._exit(3)
        raise KeyError("a bug")

    monkeypatch.setattr(fuzz_readers, "LIMIT_S", 1.0)
    for content, kind in ((b"hhhhhhhh", "hung"), (b"cccccccc", "crashed"), (b"bbbbbbbb", "unexpected")):
        reader = Reader("x", {"x": content}, lambda data, rng: data, read)
        assert fuzz_readers.fuzz_reader(reader, 2, tmp_path)[kind] == 2


def test_pipes_and_devices_are_refused_by_every_reader(readers, tmp_path):
    from skd_bench.errors import UserError

    for reader in readers:
        for name in reader.files:
            home = tmp_path / reader.name / name
            home.mkdir(parents=True)
            os.mkfifo(home / name)
            with pytest.raises(UserError):
                reader.read(home / name)
            (home / name).unlink()
            (home / name).symlink_to("/dev/zero")
            with pytest.raises(UserError):
                reader.read(home / name)
