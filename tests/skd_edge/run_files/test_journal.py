"""Each event of a journal is read as it was written, or left out; damage is named."""

from __future__ import annotations

import pytest

from skd_bench.integrity.checked_files import DamagedFileError
from skd_edge.run_files.journal import JOURNAL_FILE, append_event, check_journal, read_journal, repair_journal


@pytest.fixture
def folder(tmp_path):
    for number in range(3):
        append_event(tmp_path, "job_finished", {"job": f"hash{number}", "name": "größer>klein", "accuracy": 0.5})
    return tmp_path


def jobs(folder):
    return [event["job"] for event in read_journal(folder)]


def test_events_are_read_as_written(folder):
    assert jobs(folder) == ["hash0", "hash1", "hash2"]
    assert {key: value for key, value in read_journal(folder)[0].items() if key != "time"} == {
        "event": "job_finished",
        "job": "hash0",
        "name": "größer>klein",
        "accuracy": 0.5,
    }
    check_journal(folder)


def test_a_changed_event_is_noticed_and_removed_by_the_next_start(folder, caplog):
    file = folder / JOURNAL_FILE
    file.write_bytes(file.read_bytes().replace(b"hash1", b"hash9"))
    assert jobs(folder) == ["hash0", "hash2"]
    with pytest.raises(DamagedFileError, match=r"journal\.jsonl is damaged: .* found another line 2"):
        check_journal(folder)
    repair_journal(folder)
    assert "found another line 2; the line is removed" in caplog.text
    check_journal(folder)
    append_event(folder, "again", {"job": "hash1"})
    assert jobs(folder) == ["hash0", "hash2", "hash1"]


def test_an_event_that_a_kill_cut_is_no_damage(folder, caplog):
    file = folder / JOURNAL_FILE
    file.write_bytes(file.read_bytes()[:-20])
    check_journal(folder)
    assert jobs(folder) == ["hash0", "hash1"]
    repair_journal(folder)
    assert caplog.text == ""
    append_event(folder, "again", {"job": "hash2"})
    assert jobs(folder) == ["hash0", "hash1", "hash2"]


def test_a_link_is_refused(tmp_path):
    (tmp_path / "elsewhere").write_text("mine\n")
    (tmp_path / JOURNAL_FILE).symlink_to(tmp_path / "elsewhere")
    for write in (lambda: append_event(tmp_path, "started", {}), lambda: repair_journal(tmp_path)):
        with pytest.raises(OSError, match="symbolic links"):
            write()
    assert (tmp_path / "elsewhere").read_text() == "mine\n"
