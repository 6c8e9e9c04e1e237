"""Ray trains the same jobs as the local executor, also after a worker is killed, a stop, or a full cluster."""

from __future__ import annotations

import json
import os
import signal
import sys
from collections import Counter
from contextlib import closing
from pathlib import Path
from types import ModuleType

import pytest
import torch

from skd_bench.errors import UserError
from skd_edge.cli.exit_codes import EXIT_FAILED
from skd_edge.cli.main import run as run_command_line
from skd_edge.data.preprocessing import inference_preprocessing
from skd_edge.execution.job_graph import build_recipe_job_graph, fingerprint_of
from skd_edge.execution.local_executor import LocalExecutor
from skd_edge.labels.dataset import load_training_data
from skd_edge.pipeline.compress import compress
from skd_edge.pipeline.context import RunOptions
from skd_edge.recipe.loader import load_recipe
from skd_edge.run_folder import Run, open_cache, read_journal

ray = pytest.importorskip("ray")

RECIPE = """
name: small
data: {kind: generated, train: 40, val: 20, test: 20, frames: 4, size: 16}
clip: {frames: 4, size: 16}
augment: {shift: 1, views: 2}
teacher: {family: resnet, width: 8, depths: [1, 1]}
assistants: [{name: assistant, width: 8, depths: [1, 1]}]
students: [{name: small, width: 4, depths: [1, 1]}, {name: twin, width: 8, depths: [1, 1]}]
schedule: {controls: []}
training: {teacher_epochs: 80, refine: 0.02, rounds: 1, epochs: 1, batch: 20}
"""


@pytest.fixture(scope="module")
def cluster():
    """A Ray cluster on this machine with room for two jobs."""
    threads = torch.get_num_threads()
    os.environ |= {"RAY_USAGE_STATS_ENABLED": "0", "RAY_worker_niceness": "0"}
    for attempt in (1, 2):
        try:
            ray.init(
                address="local",
                num_cpus=2,
                include_dashboard=False,
                log_to_driver=False,
                object_store_memory=100 << 20,
            )
            break
        except Exception as error:  # Ray waits half a minute for its processes, and raises plain exceptions
            ray.shutdown()
            if attempt == 2 and "timed out" in str(error):
                pytest.skip("this machine is too busy for Ray to start")
            if attempt == 2:
                raise
    yield
    ray.shutdown()
    torch.set_num_threads(threads)


@pytest.fixture(scope="module")
def rendered(tmp_path_factory):
    """A recipe, its clips, and the cache with these clips, shared by the tests of this file."""
    home = tmp_path_factory.mktemp("small")
    (home / "recipe.yaml").write_text(RECIPE)
    recipe = load_recipe(home / "recipe.yaml")
    with pytest.MonkeyPatch.context() as environment:
        environment.setenv("SKD_EDGE_CACHE", str(home / "cache"))
        cache = open_cache()
    return recipe, load_training_data(recipe, cache), cache


@pytest.fixture
def small(rendered, monkeypatch):
    recipe, training_data, cache = rendered
    monkeypatch.setenv("SKD_EDGE_CACHE", str(cache))
    return recipe, training_data, build_recipe_job_graph(recipe, fingerprint_of(training_data), recipe.students)


def make_ray_executor(recipe, run, training_data):
    from skd_edge.execution.ray_executor import RayExecutor

    return RayExecutor(recipe, run, training_data)


def find_workers() -> list[int]:
    """Process ids of the Ray workers below this process that train a job."""
    parents = {}
    for stat in Path("/proc").glob("[0-9]*/stat"):
        try:
            parents[int(stat.parent.name)] = int(stat.read_text().rpartition(")")[2].split()[1])
        except OSError:
            continue

    def ours(pid: int) -> bool:
        return pid == os.getpid() or (pid in parents and ours(parents[pid]))

    def title(pid: int) -> str:
        try:
            return Path(f"/proc/{pid}/cmdline").read_text()
        except OSError:
            return ""

    return [pid for pid in parents if "ray::_train_job" in title(pid) and ours(pid)]


def jobs(folder: Path, event: str) -> Counter[str]:
    return Counter(e["job"] for e in read_journal(folder) if e["event"] == event)


def test_ray_trains_the_same_weights_as_the_local_executor(cluster, finished, tmp_path):
    theirs = {f.parent.name: json.loads(f.read_text()) for f in (finished.folder / "jobs").glob("*/job.json")}
    folder = compress(load_recipe(finished.recipe), tmp_path / "over ray", RunOptions(engine="ray"))
    report = json.loads((folder / "report.json").read_text())
    ours = {f.parent.name: json.loads(f.read_text()) for f in (folder / "jobs").glob("*/job.json")}
    assert ours.keys() == theirs.keys()
    for job in ours:
        assert ours[job]["threads"] == theirs[job]["threads"] == 1
        assert ours[job]["accuracy"] == theirs[job]["accuracy"]
        for name in ("weights.safetensors", "val_logits.npy"):
            assert (folder / "jobs" / job / name).read_bytes() == (finished.folder / "jobs" / job / name).read_bytes()
    assert jobs(folder, "job_started") == jobs(folder, "job_finished") == Counter(ours.keys())
    assert [r["job"] for r in report["jobs"]] == [r["job"] for r in finished.report["jobs"]]
    accuracies = [{r["name"]: r["accuracy"] for r in r["candidates"]} for r in (report, finished.report)]
    assert accuracies[0] == accuracies[1]
    # Not the name: among equally accurate candidates, latency decides, which differs between runs.
    assert report["chosen"]["accuracy"] == finished.report["chosen"]["accuracy"]


def test_a_search_asks_for_the_same_jobs_with_both_executors(cluster, tmp_path, monkeypatch):
    """Successive halving depends on the results only, not on the executor or on the order of the results."""
    sets = [
        "schedule={search: halving, share: 0, rungs: [0.5], keep: 1, controls: []}",
        "training.epochs=2",
        "training.teacher_epochs=2",
        "choice.exchange=0",
        "export.precisions=[fp32]",
        "bench={processes: 1, queries: 70}",
    ]
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    recipe, trained, chosen = load_recipe(tmp_path / "recipe.yaml", sets), {}, {}
    for engine in ("local", "ray"):
        monkeypatch.setenv("SKD_EDGE_CACHE", str(tmp_path / f"cache of {engine}"))
        folder = compress(recipe, tmp_path / engine, RunOptions(engine=engine))
        report = json.loads((folder / "report.json").read_text())
        trained[engine], chosen[engine] = jobs(folder, "job_finished"), report["chosen"]["path"]
    assert trained["local"] == trained["ray"]
    assert set(trained["ray"].values()) == {1}
    assert chosen["local"] == chosen["ray"]


def test_training_continues_after_a_killed_worker_and_after_a_stop(cluster, small, tmp_path):
    recipe, training_data, job_list = small
    killed = []

    def kill_once(job, row):
        if row and not killed:
            killed.extend(find_workers())
            os.kill(killed[0], signal.SIGKILL)

    folder = tmp_path / "run"
    with Run(folder, "x: 1") as run:
        executor = make_ray_executor(recipe, run, training_data)
        with closing(executor.train_all(job_list, kill_once)) as training:
            scout = next(training)
        # The generator was closed: finished jobs are kept, the next executor trains the others.
        assert scout.job is job_list[0]
        assert jobs(folder, "job_started")[scout.job.hash] == 2
        assert jobs(folder, "job_finished")[scout.job.hash] == 1
        done = list(make_ray_executor(recipe, run, training_data).train_all(job_list))
    assert len(killed) == 1
    assert {(f.job.hash, f.job.spec.path) for f in done} == {(n.hash, n.spec.path) for n in job_list}
    assert set(jobs(folder, "job_finished").values()) == {1}
    # A job that another worker finished just before the stop is found, and not trained again.
    assert (jobs(folder, "job_finished") | jobs(folder, "job_cached")).keys() == {n.hash for n in job_list}
    with Run(tmp_path / "here", "x: 1") as run:
        run.cache = tmp_path / "another cache"
        torch.set_num_threads(1)
        here = list(
            LocalExecutor(run, training_data, recipe.labels, inference_preprocessing(recipe.clip)[1]).train_all(
                job_list
            )
        )
    assert not here[0].cached
    over_ray = {f.job.hash: f for f in done}
    for job in here:  # equal bytes, also of the job whose worker was killed
        for name in ("weights.safetensors", "val_logits.npy"):
            assert (job.folder / name).read_bytes() == (over_ray[job.job.hash].folder / name).read_bytes()


def test_no_student_is_trained_by_a_teacher_below_the_floor(cluster, small, tmp_path):
    recipe, training_data, _ = small
    training = recipe.training.model_copy(update={"teacher_epochs": 1})
    teacher = recipe.teacher.model_copy(update={"floor": 0.99})
    low = recipe.model_copy(update={"training": training, "teacher": teacher})
    job_list = build_recipe_job_graph(low, fingerprint_of(training_data), low.students)
    with Run(tmp_path / "run", "x: 1") as run, pytest.raises(UserError, match=r"below teacher\.floor 99\.0%"):
        list(make_ray_executor(low, run, training_data).train_all(job_list))
    assert jobs(tmp_path / "run", "job_started").keys() == {
        n.hash for n in job_list if n.spec.role in ("scout", "teacher")
    }


def test_a_job_that_no_machine_has_enough_cpus_for(cluster, small, tmp_path):
    from skd_edge.execution.ray_executor import RayExecutor

    recipe, training_data, _ = small
    other = recipe.model_copy(update={"training": recipe.training.model_copy(update={"threads": 1000})})
    job_list = build_recipe_job_graph(other, fingerprint_of(training_data), other.students)
    with Run(tmp_path / "run", "x: 1") as run, pytest.raises(UserError, match="no machine of the Ray cluster has"):
        list(RayExecutor(other, run, training_data).train_all(job_list))


def test_without_ray_the_command_names_the_missing_extra(tmp_path, monkeypatch, capsys):
    monkeypatch.setitem(sys.modules, "ray", None)
    monkeypatch.delitem(sys.modules, "skd_edge.execution.ray_executor", raising=False)
    (tmp_path / "recipe.yaml").write_text(RECIPE)
    words = ["compress", str(tmp_path / "recipe.yaml"), "--out", str(tmp_path / "run"), "--engine", "ray"]
    assert run_command_line(words) == EXIT_FAILED
    assert "this command needs ray: pip install 'skd-edge[ray]'" in capsys.readouterr().err
    assert not (tmp_path / "run").exists()


def test_a_worker_without_a_package_raises_an_error_in_one_line(cluster, small, tmp_path, monkeypatch):
    """The task is pickled as the name of a module that only this process can import."""
    from skd_edge.execution import ray_executor as module

    absent = ModuleType("only_here")
    exec("def train_job(context, job, events, *required): pass", absent.__dict__)
    absent.train_job.__module__ = "only_here"
    monkeypatch.setitem(sys.modules, "only_here", absent)
    monkeypatch.setattr(module, "_train_job", ray.remote(absent.train_job))
    recipe, training_data, _ = small
    other = recipe.model_copy(update={"seed": 2})  # none of its jobs is in the cache
    job_list = build_recipe_job_graph(other, fingerprint_of(training_data), other.students)
    message = r"cannot import skd-edge .*\(No module named 'only_here'\).*install the same skd-edge\[ray\]"
    with Run(tmp_path / "run", "x: 1") as run, pytest.raises(UserError, match=message):
        list(make_ray_executor(other, run, training_data).train_all(job_list))
