"""The run folder: foreign folders are rejected, one process holds it, its journal is complete, jobs are shared."""

from __future__ import annotations

import os
import shutil
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from skd_bench.errors import UsageError, UserError
from skd_bench.integrity.checked_files import describe_files, write_checked_json
from skd_edge.run_folder import LAYOUT_VERSION, Run, open_cache, read_journal, read_run_recipe, refuse_special_files

HOLD = """
import sys, time
from pathlib import Path
from skd_edge.run_folder import Run
with Run(Path(sys.argv[1]), "name: held\\n") as run:
    run.record_event("started")
    print("held", flush=True)
    time.sleep(600)
"""


def test_a_new_folder_and_an_earlier_run_can_be_used(tmp_path):
    folder = tmp_path / "a b" / "läufe"
    with Run(folder, "name: one\n") as run:
        run.record_event("started", seed=1)
    with Run(folder, "name: two\n") as run:
        run.record_event("started", seed=2)
    assert read_run_recipe(folder) == "name: two\n"
    assert [(e["event"], e["seed"]) for e in read_journal(folder)] == [("started", 1), ("started", 2)]
    assert all(e["time"].startswith("20") for e in read_journal(folder))


def test_a_foreign_folder_is_rejected_and_not_changed(tmp_path):
    (tmp_path / "holiday.jpg").write_bytes(b"x")
    with pytest.raises(UsageError, match=f"{tmp_path} is not empty and is not a run of skd-edge"):
        Run(tmp_path, "")
    assert [p.name for p in tmp_path.iterdir()] == ["holiday.jpg"]


def test_a_file_at_the_path_of_the_folder_is_an_error(tmp_path):
    (tmp_path / "file").write_text("x")
    for folder in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(UsageError, match=r"cannot use .*choose another folder with --out"):
            Run(folder, "")


def test_a_run_folder_is_locked_until_its_process_ends(tmp_path):
    folder = tmp_path / "run"
    holder = subprocess.Popen([sys.executable, "-c", HOLD, str(folder)], stdout=subprocess.PIPE, text=True)
    try:
        assert holder.stdout.readline() == "held\n"
        with pytest.raises(UserError, match=rf"another process \(pid {holder.pid}\) is using"):
            Run(folder, "name: second\n")
        assert read_run_recipe(folder) == "name: held\n"
    finally:
        holder.send_signal(signal.SIGKILL)
        holder.wait()
    with Run(folder, "name: next\n") as run:
        run.record_event("started")
    assert len(read_journal(folder)) == 2


KILLED_WHILE_WRITING = """
import os, signal, sys
from pathlib import Path
from skd_bench import files
from skd_edge.run_folder import Run
with Run(Path(sys.argv[1]), "name: killed\\n"):
    os.fsync = lambda handle: os.kill(os.getpid(), signal.SIGKILL)
    files.write_atomic(Path(sys.argv[1], "labels", "a.csv"), "content")
"""


def test_a_run_that_ends_well_leaves_no_file_of_a_killed_process(tmp_path):
    folder = tmp_path / "run"
    done = subprocess.run([sys.executable, "-c", KILLED_WHILE_WRITING, str(folder)])
    assert done.returncode == -signal.SIGKILL
    (left,) = folder.rglob("*.part")
    (folder / "mine.part").touch()  # not one of ours
    with pytest.raises(KeyboardInterrupt), Run(folder, "name: x\n"):
        raise KeyboardInterrupt
    assert left.exists()  # a process of a stopped run may still be writing
    with Run(folder, "name: x\n"):
        pass
    assert list(folder.rglob("*.part")) == [folder / "mine.part"]


def test_an_incomplete_line_of_the_journal_is_skipped(tmp_path):
    with Run(tmp_path / "run", "") as run:
        run.record_event("one", text="zwei\nZeilen ü")
    with (tmp_path / "run" / "journal.jsonl").open("a") as file:
        file.write('{"event": "hal')
    assert [e["event"] for e in read_journal(tmp_path / "run")] == ["one"]
    # The next event is written to a new line.
    with Run(tmp_path / "run", "") as run:
        run.record_event("two")
    assert [e["event"] for e in read_journal(tmp_path / "run")] == ["one", "two"]


def finish(run: Run, job: str, text: str = "weights") -> Path:
    folder = run.job_folder(job)
    folder.mkdir(parents=True)
    (folder / "weights.safetensors").write_text(text)
    write_checked_json(folder / "job.json", {"job": job, "files": describe_files(folder, ["weights.safetensors"])})
    return folder


def test_finished_jobs_are_shared_between_runs_as_links(tmp_path):
    with Run(tmp_path / "one", "") as one:
        assert not one.fetch_job("abc")
        made = finish(one, "abc")
        assert one.fetch_job("abc")
        one.publish_job("abc")
    with Run(tmp_path / "two", "") as two:
        assert not two.fetch_job("other")
        assert two.fetch_job("abc")
        linked = two.job_folder("abc")
        assert {p.name for p in linked.iterdir()} == {"weights.safetensors", "job.json"}
        assert (linked / "weights.safetensors").samefile(made / "weights.safetensors")
        assert [p.name for p in linked.parent.iterdir()] == ["abc"]  # no temporary folder is left


@pytest.mark.parametrize("removed", ["abc", "abc/job.json", "abc/weights.safetensors"])
def test_a_job_that_is_removed_from_the_cache_while_it_is_fetched_is_not_used(tmp_path, monkeypatch, removed):
    with Run(tmp_path / "one", "") as one:
        finish(one, "abc")
        one.publish_job("abc")
    victim, whole_link = open_cache() / "jobs" / removed, os.link

    def link(source, target):
        shutil.rmtree(victim) if victim.is_dir() else victim.unlink(missing_ok=True)
        whole_link(source, target)

    with Run(tmp_path / "two", "") as two:
        monkeypatch.setattr(os, "link", link)
        assert not two.fetch_job("abc")
        monkeypatch.undo()
        assert not [path for path in (tmp_path / "two" / "jobs").iterdir() if path.name != "abc"]


def test_an_unfinished_job_is_not_used(tmp_path):
    with Run(tmp_path / "one", "") as one:
        one.job_folder("abc").mkdir(parents=True)
        (one.job_folder("abc") / "state.pt").write_bytes(b"half")
        assert not one.fetch_job("abc")
        there = open_cache() / "jobs" / "abc"
        there.mkdir(parents=True)
        (there / "weights.safetensors").write_text("half")
        assert not one.fetch_job("abc")
        # Once it is finished in the cache, it replaces the unfinished one.
        write_checked_json(there / "job.json", {"files": describe_files(there, ["weights.safetensors"])})
        assert one.fetch_job("abc")
        assert not (one.job_folder("abc") / "state.pt").exists()


def test_a_published_job_is_not_replaced(tmp_path):
    with Run(tmp_path / "one", "") as one, Run(tmp_path / "two", "") as two:
        finish(one, "abc", "first")
        finish(two, "abc", "second")
        one.publish_job("abc")
        two.publish_job("abc")
    assert (open_cache() / "jobs" / "abc" / "weights.safetensors").read_text() == "first"


def test_the_place_of_the_cache(monkeypatch, tmp_path, own_places):
    assert open_cache() == own_places
    monkeypatch.delenv("SKD_EDGE_CACHE")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))
    assert open_cache() == tmp_path / "skd-edge"
    monkeypatch.delenv("XDG_CACHE_HOME")
    monkeypatch.setenv("HOME", str(tmp_path / "home"))
    assert open_cache() == tmp_path / "home" / ".cache" / "skd-edge"


def test_a_cache_of_another_layout_is_an_error_that_says_what_to_delete(own_places):
    (own_places / "legs" / "abc").mkdir(parents=True)
    with pytest.raises(
        UserError, match=rf"{own_places} has no layout version, .* needs version \d+; delete the folder"
    ):
        open_cache()
    (own_places / "layout_version").write_text("1\n")
    with pytest.raises(UserError, match="has layout version 1,"):
        open_cache()


def test_a_new_cache_records_its_layout(own_places):
    assert open_cache() == own_places
    (own_places / "jobs").mkdir()
    assert open_cache() == own_places
    assert int((own_places / "layout_version").read_text()) == LAYOUT_VERSION


def test_a_run_folder_of_another_layout_is_an_error_and_is_not_changed(own_places, tmp_path):
    folder = tmp_path / "run"
    folder.mkdir()
    (folder / "journal.jsonl").write_text('{"event": "started"}\n')
    with pytest.raises(UsageError, match=r"has no layout version, .* choose another folder with --out"):
        Run(folder, "name: x\n")
    assert [path.name for path in folder.iterdir()] == ["journal.jsonl"]


def test_a_run_that_was_killed_before_its_journal_can_continue(own_places, tmp_path):
    with Run(tmp_path / "run", "name: x\n"):
        pass
    (tmp_path / "run" / "journal.jsonl").unlink()
    (tmp_path / "run" / "recipe.yaml").unlink()
    with Run(tmp_path / "run", "name: x\n") as run:
        run.record_event("started")


@pytest.mark.parametrize("name", ["weights.safetensors", "job.json"])
@pytest.mark.parametrize("content", [b"", b"w", b"WEIGHTS", b"{}"])
def test_a_damaged_job_is_named_deleted_and_not_published(tmp_path, caplog, name, content):
    with Run(tmp_path / "one", "") as one:
        made = finish(one, "abc")
        one.publish_job("abc")
    (made / name).write_bytes(content)  # also in the cache: its file is the same
    with Run(tmp_path / "one", "") as one, Run(tmp_path / "two", "") as two:
        assert not two.fetch_job("abc")
        assert not one.fetch_job("abc")
    assert caplog.text.count(f"{name} is damaged: expected ") == 2
    assert "; the job is trained again" in caplog.text
    assert not made.exists()
    assert [e["event"] for e in read_journal(tmp_path / "two")] == ["damaged"]


def test_a_damaged_job_in_the_cache_is_replaced(tmp_path):
    with Run(tmp_path / "one", "") as one:
        finish(one, "abc")
        there = open_cache() / "jobs" / "abc"
        there.mkdir(parents=True)
        (there / "job.json").write_text("{")
        one.publish_job("abc")
        assert (there / "weights.safetensors").read_text() == "weights"


@pytest.mark.parametrize("change", [("seed: 0", "seed: 1"), ("name", "nmae"), ("sha256", "sha265")])
def test_a_changed_recipe_of_a_run_is_an_error(tmp_path, change):
    with Run(tmp_path / "run", "name: one\nseed: 0\n"):
        pass
    file = tmp_path / "run" / "recipe.yaml"
    file.write_text(file.read_text().replace(*change))
    with pytest.raises(UserError, match=r"recipe\.yaml is not what the run wrote: .*repeat the skd-edge compress"):
        read_run_recipe(tmp_path / "run")


@pytest.mark.parametrize("name", [".lock", "journal.jsonl", "artefacts", "jobs/abc/weights.safetensors"])
def test_a_link_in_a_run_folder_is_refused(tmp_path, name):
    with Run(tmp_path / "run", ""):
        pass
    (tmp_path / "elsewhere").write_text("mine")
    link = tmp_path / "run" / name
    link.parent.mkdir(parents=True, exist_ok=True)
    link.unlink(missing_ok=True)
    link.symlink_to(tmp_path / "elsewhere")
    with pytest.raises(UsageError, match=f"{link} is a link; a run reads and writes only files inside its folder"):
        Run(tmp_path / "run", "")
    assert (tmp_path / "elsewhere").read_text() == "mine"


@pytest.mark.parametrize("name", ["recipe.yaml", "report.json"])
def test_a_pipe_in_a_run_folder_is_refused(tmp_path, name):
    """Reading it would never end."""
    with Run(tmp_path / "run", ""):
        pass
    (tmp_path / "run" / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / "run" / name)
    with pytest.raises(UsageError, match=f"{name} is a device, a pipe or a socket"):
        Run(tmp_path / "run", "")
    with pytest.raises(UsageError, match=f"{name} is a device, a pipe or a socket"):
        refuse_special_files(tmp_path / "run")
