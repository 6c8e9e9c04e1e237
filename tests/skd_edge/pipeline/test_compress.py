"""``compress`` end to end on a tiny recipe: killed, resumed, finished; its report, its bundle, and later starts."""

from __future__ import annotations

import csv
import json
import shutil
import subprocess
import sys
from collections import Counter
from pathlib import Path

import av
import pytest
import yaml

from skd_bench.bundle.manifest import Manifest
from skd_bench.bundle.verify import find_bundle_problems
from skd_bench.errors import UserError
from skd_bench.inference.long_video import analyse_videos
from skd_bench.inference.predict import predict
from skd_edge.pipeline.compress import compress
from skd_edge.pipeline.reselect import reselect
from skd_edge.recipe.loader import load_recipe
from skd_edge.run_files.journal import append_event
from skd_edge.run_folder import read_journal

ROOT = Path(__file__).resolve().parents[3]


def events(done, *names):
    return [e for e in read_journal(done.folder) if e["event"] in names]


def test_the_keys_that_scripts_read(finished):
    report = finished.report
    assert {
        "chosen",
        "candidates",
        "device",
        "headline",
        "baselines",
        "jobs",
        "labels",
        "data",
        "test",
    } <= report.keys()
    wanted = {"path", "student", "precision", "runtime", "accuracy", "interval", "p50_ms", "p90_ms", "p99_ms"}
    for row in report["candidates"]:
        assert wanted | {"trained", "reason"} <= row.keys()
        assert row["p50_ms"] > 0
        assert row["reason"]
        assert row["p99_ms"] is None  # 70 queries are too few to estimate it
    assert len(report["candidates"]) == 8
    assert report["seed"] == 0
    assert report["device"]["id"]
    for event in read_journal(finished.folder):
        assert event["event"]
        assert event["time"]
        assert not event["event"].startswith("job_") or len(event["job"]) == 16


def test_a_student_over_the_budget_is_measured_and_never_trained(finished):
    large = [r for r in finished.report["candidates"] if r["student"] == "large"]
    assert len(large) == 4
    assert all(not r["trained"] and r["accuracy"] is None and "over the budget" in r["reason"] for r in large)
    assert all(r["p50_ms"] > finished.report["budget"]["ms"] for r in large)
    assert [e["student"] for e in events(finished, "pruned")][-1] == "large"
    assert not any("large" in e["name"] for e in events(finished, "job_started", "job_finished"))
    trained = [r for r in finished.report["candidates"] if r["student"] == "small"]
    assert all(r["trained"] and 0 <= r["accuracy"] <= 1 for r in trained)
    assert {r["precision"] for r in trained} == {"fp32", "int8"}


def test_the_killed_run_continued_where_it_stopped(finished):
    """No job that was finished before the kill was trained again, and every job was finished once."""
    assert len(finished.jobs_before_kill) >= 2
    finishes = Counter(e["job"] for e in events(finished, "job_finished"))
    assert set(finishes.values()) == {1}
    assert finished.jobs_before_kill <= {e["job"] for e in events(finished, "job_cached")}
    assert {r["job"] for r in finished.report["jobs"] if r["state"] != "pruned"} == set(finishes)
    for job in finishes:
        assert (finished.folder / "jobs" / job / "weights.safetensors").is_file()
    # scout, teacher, direct, assistant, by the assistant, alone, and plain KD with a teacher of its own
    assert len(finishes) == 8


def test_the_test_clips_are_scored_once_and_after_the_choice(finished):
    order = [e["event"] for e in read_journal(finished.folder)]
    assert order.count("confirmed") == order.count("chosen") == 1
    assert order.index("chosen") < order.index("confirmed")
    assert max(i for i, e in enumerate(order) if e in ("job_finished", "measured")) < order.index("chosen")
    assert finished.report["test"]["looks"] == 1
    looks = [json.loads(line) for line in finished.ledger.read_text().splitlines()]
    assert [row["test"] for row in looks] == [finished.report["test"]["hash"]]
    assert len(finished.report["test"]["rows"]) == 4  # teacher, alone, plain KD, skd-edge


def test_the_choice_is_one_that_may_be_chosen(finished):
    chosen = finished.report["chosen"]
    rows = [r for r in finished.report["candidates"] if r["chosen"]]
    assert len(rows) == 1
    assert (chosen["path"], chosen["precision"]) == (rows[0]["path"], rows[0]["precision"])
    assert chosen["p50_ms"] <= finished.report["budget"]["ms"]
    assert chosen["student"] in finished.report["headline"]


def test_the_run_folder(finished):
    names = {p.name for p in finished.folder.iterdir()}
    assert {
        "recipe.yaml",
        "journal.jsonl",
        "jobs",
        "artefacts",
        "bundle",
        "report.html",
        "report.json",
        "report.md",
    } <= names
    assert not [p for p in finished.folder.rglob("*") if p.suffix in (".part", ".tmp")]
    assert str(finished.folder) in finished.stdout


def test_pseudo_labels_have_a_row_for_every_clip(finished):
    tables = list((finished.folder / "labels").glob("*.csv"))
    assert len(tables) >= 2
    for table in tables:
        rows = list(csv.DictReader(table.read_text(encoding="utf-8").splitlines()))
        assert len(rows) == 120
        assert all(float(r["confidence"]) >= 0.1 - 1e-4 for r in rows)  # the largest of ten shares that sum to 1
    labels = finished.report["labels"]
    assert labels["accuracy_before"] == 0.6
    assert labels["unchanged"] + labels["changed"] == labels["n"] == 120


def test_the_bundle(finished, tmp_path):
    bundle = finished.folder / "bundle"
    assert find_bundle_problems(bundle) == []
    manifest = Manifest.load(bundle)
    chosen = manifest.find_artefact(None)
    assert (list(chosen.path), chosen.precision) == (
        finished.report["chosen"]["path"],
        finished.report["chosen"]["precision"],
    )
    assert len(manifest.samples) == 2
    moved = shutil.copytree(bundle, tmp_path / "far away")
    videos = [moved / s.file for s in manifest.samples]
    for result in predict(moved, videos, top=3):
        assert [name in manifest.classes for name, _ in result["top"]] == [True] * 3
        assert result["top"][0][1] >= result["top"][1][1] > 0
        assert 0.1 < result["confidence"] <= 1  # ten classes
    assert manifest.clip_seconds == pytest.approx(length_of(videos[0]), abs=0.1)
    assert analyse_videos(moved, videos[:1])["videos"][0]["window"] == manifest.clip_seconds


def length_of(video):
    with av.open(str(video)) as container:
        return container.duration / av.time_base


def best(report):
    """The highest accuracy within the constraints; its name where no other reaches it."""
    rows = [r for r in report["candidates"] if r["trained"] and r["eligible"]]
    top = max(r["accuracy"] for r in rows)
    names = [r["name"] for r in rows if r["accuracy"] == top]
    return top, names


def test_again_trains_nothing_and_chooses_the_same(finished):
    before = len(events(finished, "job_started"))
    again = finished.again()
    assert len(events(finished, "job_started")) == before
    accuracies = [{r["name"]: r["accuracy"] for r in report["candidates"]} for report in (finished.report, again)]
    assert accuracies[0] == accuracies[1]
    top, names = best(again)
    # The margin is 0: the most accurate is chosen, and latency only decides between equals.
    assert again["chosen"]["accuracy"] == finished.report["chosen"]["accuracy"] == top
    assert {again["chosen"]["name"], finished.report["chosen"]["name"]} <= set(names)
    assert again["test"]["looks"] <= len(names)


def test_another_rule_of_choice_trains_nothing_even_in_a_new_folder(finished, tmp_path):
    out = tmp_path / "other rule"
    report = finished.again("--set", "choice.margin=100", "--set", "export.precisions=[fp32]", out=out)
    journal = read_journal(out)
    assert [e for e in journal if e["event"] in ("job_started", "job_finished")] == []
    assert {e["job"] for e in journal if e["event"] == "job_cached"} == {
        r["job"] for r in finished.report["jobs"] if r["state"] != "pruned"
    }
    rows = [r for r in report["candidates"] if r["trained"]]
    on_front = [r for r in rows if r["on_front"]]
    assert report["chosen"]["p50_ms"] == min(
        r["p50_ms"] for r in on_front
    )  # all accuracies are within the margin, so the fastest
    assert len(rows) == 2


def test_a_teacher_below_its_floor_stops_the_run_before_a_student_is_trained(finished, tmp_path):
    done = finished.command("--set", "teacher.floor=0.999", out=tmp_path / "run")
    assert done.returncode == 1
    assert "below teacher.floor 99.9%" in done.stderr
    assert "Traceback" not in done.stderr
    journal = read_journal(tmp_path / "run")
    roles = {e["role"] for e in journal if e["event"] in ("job_cached", "job_finished")}
    assert roles == {"scout", "teacher"}
    assert journal[-1]["event"] == "stopped"
    assert journal[-1]["reason"] in done.stderr.replace("\n", " ")


def test_warnings_of_another_version_of_the_method_and_of_a_larger_student(finished, tmp_path):
    out = tmp_path / "run"
    larger = (
        "--set",
        "assistants=[{name: tiny, family: resnet, width: 4}, {name: wide, family: resnet, width: 6}]",
        "--set",
        "schedule.paths=[[tiny, wide]]",
        "--set",
        "teacher.floor=0.999",
    )
    done = finished.command(*larger, out=out)
    assert "warning: wide (" in done.stderr
    assert "is larger than tiny (" in done.stderr
    assert [(e["learner"], e["teacher"]) for e in read_journal(out) if e["event"] == "larger"] == [("wide", "tiny")]
    append_event(out, "started", {"method": 0})
    assert "this run was started with version 0 of the method" in finished.command(*larger, out=out).stderr


@pytest.mark.slow
def test_a_device_without_torch(finished, tmp_path):
    """A fresh environment with ``pip install '.[ort]'`` alone predicts, measures and verifies."""
    source = tmp_path / "source"
    source.mkdir()
    for name in ("skd_edge", "export", "bench", "recipes"):
        shutil.copytree(ROOT / name, source / name, symlinks=True, ignore=shutil.ignore_patterns("__pycache__"))
    for name in ("pyproject.toml", "LICENSE", "README.md"):
        if (ROOT / name).exists():
            shutil.copy(ROOT / name, source / name)
    subprocess.run([sys.executable, "-m", "venv", tmp_path / "venv"], check=True)
    python, program = tmp_path / "venv" / "bin" / "python", tmp_path / "venv" / "bin" / "skd-edge"

    def call(*words, code=0):
        done = subprocess.run(
            list(map(str, words)), cwd=tmp_path, capture_output=True, text=True, timeout=300, check=False
        )
        assert done.returncode == code, done.stderr
        return done.stdout

    call(python, "-m", "pip", "install", "-q", "--disable-pip-version-check", f"{source}[ort]")
    for module in ("torch", "onnx", "sklearn", "plotly"):
        call(python, "-c", f"import importlib.util as u; raise SystemExit(u.find_spec({module!r}) is not None)")
    bundle = finished.folder / "bundle"
    manifest = Manifest.load(bundle)
    video = bundle / manifest.samples[0].file
    (result,) = json.loads(call(program, "predict", bundle, video, "--json"))
    (here,) = predict(bundle, [video])
    assert [name for name, _ in result["top"]] == [name for name, _ in here["top"]]
    assert "ok" in call(program, "verify", bundle)
    few = ("--processes", "1", "--queries", "70")
    for words in ((program, "bench"), (python, "-m", "skd_bench")):
        measured = json.loads(call(*words, bundle, "--json", *few))
        assert len(measured["artefacts"]) == len(manifest.artefacts)
        assert all(a["latency"]["p50_ms"] > 0 for a in measured["artefacts"])
    call(program, "validate", "quickstart")


def test_no_file_of_a_run_shows_the_value_of_an_environment_variable(film, tmp_path, monkeypatch):
    """Also not after an error, whose text is in the journal; and ``choose`` reads the variable anew."""
    secret = tmp_path / "hunter2-secret"
    for label in ("spin_cw", "blink"):
        for number in range(8):
            film(secret / "clips" / label / f"{number}.mp4", label, seed=number, frames=4, size=16)
    recipe = {
        "name": "hidden",
        "clip": {"frames": 4, "size": 16},
        "training": {"teacher_epochs": 1, "epochs": 1, "batch": 8, "rounds": 1},
        "bench": {"processes": 1, "queries": 20},
        "data": {"kind": "folder", "root": "${HIDDEN}/clips", "val": 0.25, "test": 0.25},
        "students": [{"name": "small", "width": 4, "depths": [1]}],
        "teacher": {"family": "resnet", "width": 4, "depths": [1]},
        "labels": {"optimise": False},
        "schedule": {"controls": []},
        "export": {"precisions": ["fp32"], "sample_clips": 1},
    }
    file, out = tmp_path / "r.yaml", tmp_path / "run"
    file.write_text(yaml.safe_dump(recipe))
    monkeypatch.setenv("HIDDEN", f"{secret}-missing")
    with pytest.raises(UserError, match="hunter2-secret-missing"):
        compress(load_recipe(file), out)
    assert "${HIDDEN}/clips" in read_journal(out)[-1]["reason"]
    monkeypatch.setenv("HIDDEN", str(secret))
    compress(load_recipe(file), out)
    assert reselect(out).chosen is not None
    assert "${HIDDEN}/clips" in (out / "recipe.yaml").read_text()
    assert "${HIDDEN}/clips" in json.loads((out / "report.json").read_text())["recipe"]
    files = [path for path in out.rglob("*") if path.is_file()]
    assert [path for path in files if b"hunter2" in path.read_bytes()] == []
    secret.rename(tmp_path / "moved")
    monkeypatch.setenv("HIDDEN", str(tmp_path / "moved"))
    assert reselect(out).chosen is not None
