"""Jobs beside each other: the same weights and choices as one after the other, also after a kill or a stop."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import replace
from pathlib import Path

import pytest
import torch

from skd_bench.errors import UserError
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.distill.checkpoint import Checkpoint
from skd_edge.execution import parallel_executor as module
from skd_edge.execution.job_graph import JobFactory, build_recipe_job_graph, fingerprint_of
from skd_edge.execution.job_results import OutOfMemory
from skd_edge.execution.local_executor import LocalExecutor
from skd_edge.execution.parallel_executor import ParallelExecutor
from skd_edge.labels.dataset import load_training_data
from skd_edge.recipe.loader import load_recipe
from skd_edge.run_folder import Run, open_cache, read_journal
from skd_edge.schedule.choice_metric import ChoiceMetric
from skd_edge.schedule.successive_halving import Search, run_search

RECIPE = """
name: small
data: {kind: generated, train: 40, val: 20, test: 20, frames: 4, size: 16}
clip: {frames: 4, size: 16}
augment: {shift: 1, views: 2}
teacher: {family: resnet, width: 8, depths: [1, 1]}
assistants: [{name: assistant, width: 8, depths: [1, 1]}]
students: [{name: small, width: 4, depths: [1, 1]}, {name: twin, width: 8, depths: [1, 1]}]
schedule: {controls: [alone]}
training: {teacher_epochs: 2, refine: 0.5, rounds: 1, epochs: 2, batch: 20}
"""


@pytest.fixture(scope="module")
def home(tmp_path_factory):
    """The recipe's file, and a cache with its clips."""
    home = tmp_path_factory.mktemp("small")
    (home / "recipe.yaml").write_text(RECIPE)
    return home


@pytest.fixture
def load(home, monkeypatch):
    """Loads the recipe with changed settings, and its data; the cache has clips, but no job of another test."""
    monkeypatch.setenv("SKD_EDGE_CACHE", str(home / "cache"))
    for name in ("jobs", "teachers"):
        shutil.rmtree(home / "cache" / name, ignore_errors=True)

    def _load(*sets):
        recipe = load_recipe(home / "recipe.yaml", sets)
        training_data = load_training_data(recipe, open_cache())
        return recipe, training_data, build_recipe_job_graph(recipe, fingerprint_of(training_data), recipe.students)

    return _load


@pytest.fixture
def one_thread():
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


@contextmanager
def open_separate_run(folder: Path) -> Iterator[Run]:
    """A run that shares no finished job with others."""
    with Run(folder, "x: 1") as run:
        run.cache = folder.with_name(f"cache of {folder.name}")
        yield run


def open_shared_run(folder: Path) -> Run:
    return Run(folder, "x: 1")


def make_local_executor(recipe, run, training_data):
    return LocalExecutor(run, training_data, recipe.labels, inference_preprocessing(recipe.clip)[1])


def make_executor(recipe, run, training_data):
    return ParallelExecutor(recipe, run, training_data, most_jobs=2)


def read_outputs(folder: Path) -> dict[str, bytes]:
    """Weights and logits of every finished job."""
    names = ("weights.safetensors", "val_logits.npy")
    return {f"{job.name}/{name}": (job / name).read_bytes() for job in (folder / "jobs").iterdir() for name in names}


def count_jobs(folder: Path, event: str) -> Counter[str]:
    return Counter(e["job"] for e in read_journal(folder) if e["event"] == event)


def count_most_at_once(folder: Path) -> int:
    running, most = 0, 0
    for event in read_journal(folder):
        running += {"job_started": 1, "job_finished": -1}.get(event["event"], 0)
        most = max(most, running)
    return most


def list_descendants(pid: int) -> list[int]:
    children = Path(f"/proc/{pid}/task").glob("*/children")
    own = [int(word) for file in children for word in file.read_text().split()]
    return own + [further for child in own for further in list_descendants(child)]


def list_job_processes(pid: int) -> list[int]:
    """The processes below a process that train a job; they are forked from its server."""
    servers = [p for p in list_descendants(pid) if b"forkserver" in Path(f"/proc/{p}/cmdline").read_bytes()]
    return [child for server in servers for child in list_descendants(server)]


@pytest.mark.parametrize("seed", [0, 1])
def test_weights_do_not_depend_on_the_number_of_jobs_at_the_same_time(load, tmp_path, one_thread, seed):
    recipe, training_data, jobs = load(f"seed={seed}")
    results = {}
    for name, make, open_run in (
        ("one", make_local_executor, open_separate_run),
        ("two", make_executor, open_shared_run),
    ):
        with open_run(tmp_path / name) as run:
            results[name] = {
                (r.job.hash, r.job.spec.path): (r.accuracy, r.correct.tolist(), r.cached)
                for r in make(recipe, run, training_data).train_all(jobs)
            }
    assert results["one"] == results["two"]
    assert read_outputs(tmp_path / "one") == read_outputs(tmp_path / "two")
    assert count_jobs(tmp_path / "one", "job_finished") == count_jobs(tmp_path / "two", "job_finished")
    assert count_most_at_once(tmp_path / "one") == 1
    assert count_most_at_once(tmp_path / "two") == 2


def test_a_search_asks_for_the_same_jobs_and_prunes_the_same(load, tmp_path, one_thread):
    settings = "schedule={search: halving, share: 0, rungs: [0.5], keep: 1, controls: [alone]}"
    shapes = (f"{{name: {name}, width: {width}, depths: [1, 1]}}" for name, width in (("a", 4), ("b", 6), ("c", 8)))
    recipe, training_data, _ = load(settings, f"students=[{', '.join(shapes)}]")
    trained, pruned = {}, {}
    for name, make, open_run in (
        ("one", make_local_executor, open_separate_run),
        ("two", make_executor, open_shared_run),
    ):
        with open_run(tmp_path / name) as run:
            executor = make(recipe, run, training_data)
            factory = JobFactory(recipe, fingerprint_of(training_data))
            p50_ms = {student.name: 1.0 for student in recipe.students}
            val = training_data.clips.val
            search = Search(factory, recipe.students, p50_ms, ChoiceMetric("accuracy", val.labels, val.groups))
            results = run_search(search, lambda jobs, executor=executor: list(executor.train_all(jobs)))
            trained[name] = sorted(result.job.hash for result in results)
            pruned[name] = search.pruned
    assert trained["one"] == trained["two"]
    assert pruned["one"] == pruned["two"] != {}


def test_a_killed_process_is_replaced_and_its_job_continues(load, tmp_path, one_thread):
    # Long enough that no job has ended when its first epoch is reported, also on a busy machine.
    recipe, training_data, jobs = load("training.teacher_epochs=60", "training.epochs=60")
    killed = []

    def kill_once(job, row):
        if row.get("epoch") and not killed:
            killed.extend(list_job_processes(os.getpid()))
            os.kill(killed[0], signal.SIGKILL)

    with Run(tmp_path / "killed", "x: 1") as run:
        list(make_executor(recipe, run, training_data).train_all(jobs, kill_once))
    died = [e for e in read_journal(tmp_path / "killed") if e["event"] == "worker_died"]
    assert [e["reason"] for e in died] == ["SIGKILL"]
    assert set(count_jobs(tmp_path / "killed", "job_finished").values()) == {1}
    with open_separate_run(tmp_path / "peace") as run:
        list(make_local_executor(recipe, run, training_data).train_all(jobs))
    assert read_outputs(tmp_path / "killed") == read_outputs(tmp_path / "peace")


def test_a_job_whose_process_always_dies_is_an_error(load, tmp_path):
    recipe, training_data, jobs = load()

    def kill_all(job, row):
        if row.get("epoch"):
            for pid in list_job_processes(os.getpid()):
                os.kill(pid, signal.SIGKILL)

    with (
        Run(tmp_path / "run", "x: 1") as run,
        pytest.raises(UserError, match=r"died 4 times \(SIGKILL\).*lower training\.batch"),
    ):
        list(make_executor(recipe, run, training_data).train_all(jobs[:1], kill_all))
    assert list_job_processes(os.getpid()) == []


def test_a_stopped_training_leaves_no_process_and_writes_checkpoints(load, tmp_path):
    recipe, training_data, jobs = load("training.teacher_epochs=900")
    stopped_in_epoch = []

    def stop(job, row):
        if row.get("epoch", 0) > 2:
            stopped_in_epoch.append(job.hash)
            raise KeyboardInterrupt

    with (
        Run(tmp_path / "run", "x: 1") as run,
        pytest.raises(KeyboardInterrupt),
        closing(make_executor(recipe, run, training_data).train_all(jobs, stop)) as training,
    ):
        list(training)
    assert list_job_processes(os.getpid()) == []
    state = Checkpoint(tmp_path / "run" / "jobs" / stopped_in_epoch[0] / "state.pt").load()
    assert state is not None
    assert len(state["curve"]) >= 2
    assert not list((tmp_path / "run").rglob("*.part"))


def test_an_error_of_a_job_is_raised_here(load, tmp_path):
    """A convolution of 230 GB: torch cannot allocate it, and the network's name comes with the error."""
    recipe, training_data, jobs = load("teacher={family: resnet, width: 512, depths: [1, 1]}")
    wide = jobs[0].spec.learner.model_copy(update={"width": 80_000})
    with Run(tmp_path / "run", "x: 1") as run, pytest.raises(OutOfMemory, match="does not fit into memory") as error:
        list(
            make_executor(recipe, run, training_data).train_all(
                [replace(jobs[0], spec=replace(jobs[0].spec, learner=wide))]
            )
        )
    assert error.value.learner == "teacher"
    assert "in the process that trained the job" in error.value.__notes__[0]


@pytest.mark.parametrize("damaged", ["stores/*/clips.npy", "generated/*/clips/test/*/*.mp4"])
def test_clips_that_are_damaged_while_a_run_trains_are_an_error_and_repaired_by_the_next(
    load, tmp_path, monkeypatch, damaged
):
    monkeypatch.setenv("SKD_EDGE_CACHE", str(tmp_path / "cache"))  # of this test alone
    recipe, training_data, jobs = load()
    file = next(open_cache().glob(damaged))
    content = file.read_bytes()
    file.write_bytes(content[:-1] + bytes([content[-1] ^ 1]))
    with (
        Run(tmp_path / "run", "x: 1") as run,
        pytest.raises(UserError, match=r"was damaged while the run was training; repeat the command, which repairs it"),
    ):
        list(make_executor(recipe, run, training_data).train_all(jobs[:1]))
    repaired = load()[1]
    assert (repaired.clips.train.hash, file.read_bytes()) == (training_data.clips.train.hash, content)


def test_a_job_waits_while_there_is_no_memory_for_it(load, tmp_path, monkeypatch):
    recipe, training_data, jobs = load()
    monkeypatch.setattr(module, "read_available_bytes", lambda: 100 << 20)
    with Run(tmp_path / "run", "x: 1") as run:
        results = list(make_executor(recipe, run, training_data).train_all(jobs))
    assert len(results) == len(jobs)
    assert count_most_at_once(tmp_path / "run") == 1


def test_no_process_outlives_a_killed_command(home, load, tmp_path):
    """The audit trains the teacher only, whose jobs follow each other."""
    load()
    words = [sys.executable, "-m", "skd_edge.cli", "labels", "audit", str(home / "recipe.yaml"), "--jobs", "2"]
    command = subprocess.Popen(
        [*words, "--out", str(tmp_path / "run"), "--set", "training.teacher_epochs=900"],
        stderr=subprocess.DEVNULL,
        start_new_session=True,
    )
    try:
        wait_until(lambda: command.poll() is not None or bool(list_job_processes(command.pid)))
        pids = list_descendants(command.pid)
        command.kill()
        command.wait()
        wait_until(lambda: not any(is_alive(pid) for pid in pids))
    finally:
        if command.poll() is None:
            os.killpg(command.pid, signal.SIGKILL)
    assert len(pids) >= 2  # the server and the job


def wait_until(condition: Callable[[], bool], seconds: float = 100) -> None:
    deadline = time.monotonic() + seconds
    while not condition():
        assert time.monotonic() < deadline
        time.sleep(0.05)


def is_alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


def test_finished_jobs_say_how_they_were_trained(load, tmp_path):
    recipe, training_data, jobs = load("training.threads=2")
    one_thread_jobs = load()[2]
    assert not {job.hash for job in jobs} & {job.hash for job in one_thread_jobs}  # the weights differ, so do the names
    with Run(tmp_path / "run", "x: 1") as run:
        (scout,) = make_executor(recipe, run, training_data).train_all(jobs[:1])
    assert json.loads((scout.folder / "job.json").read_text())["threads"] == 2
