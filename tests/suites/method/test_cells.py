"""The cells of the study with checked clips, as data, and what is still missing of them."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import time
from contextlib import suppress
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

ROOT = Path(__file__).resolve().parents[3]
TRIALS = {0.5: 0.6, 1: 0.7, 2: 0.6, 4.5: 0.5}  # validation accuracy of each factor


@pytest.fixture
def cells(suites, monkeypatch, tmp_path):
    """The module, with a results file and a cache of its own."""
    import bench.suites.method.cells as module

    monkeypatch.setenv("SKD_EDGE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setattr(module, "RESULTS", tmp_path / "method_ground.jsonl")
    return module


def test_every_row_of_a_cell_exists_and_every_recipe_is_valid(cells, monkeypatch, tmp_path):
    from bench.suites.method.ground import find_ground_row
    from skd_edge.recipe.loader import load_recipe

    monkeypatch.setenv("HUMAN_MOTION", str(tmp_path))
    monkeypatch.setenv("LIP_WORDS", str(tmp_path))
    assert len({cell.name for cell in cells.CELLS}) == len(cells.CELLS)
    for cell in cells.CELLS:
        recipe = load_recipe(cells.RECIPES[cell.data], cell.sets)
        rows = [find_ground_row(name) for name in cell.rows]
        assert len(set(cell.rows)) == len(rows)
        assert recipe.labels.trusted_per_class or not any(row.checked for row in rows)


def test_finished_rows_are_not_measured_again(cells):
    cell = cells.Cell("a", "generated", (), ("KD", "CFT"), (0, 1))
    other = cells.Cell("b", "generated", (), ("KD",), (1,))
    assert cells.list_missing([cell, other], (), ()) == [
        (cell, ("KD", "CFT"), 0),
        (cell, ("KD", "CFT"), 1),
        (other, ("KD",), 1),
    ]
    cells.RESULTS.write_text(json.dumps({"cell": "a", "row": "KD", "seed": 0}) + "\n")
    assert cells.list_missing([cell], (), ()) == [(cell, ("CFT",), 0), (cell, ("KD", "CFT"), 1)]
    assert cells.list_missing([cell], ("KD",), (0,)) == []


@pytest.fixture
def tiny_cell(cells):
    """A cell of a tiny generated set."""
    size = ["data.train=200", "data.val=20", "data.test=20", "data.frames=4", "data.size=16", "clip.frames=4"]
    nets = ["clip.size=16", "training.epochs=2", "training.teacher_epochs=2", "labels.noise.held_out=0.3"]
    sets = ("labels.noise.kind=model", "labels.noise.rate=0.75", "labels.trusted_per_class=2", *size, *nets)
    return cells.Cell("tiny", "generated", sets, ("weak only", "clean labels"), (0,))


def write_trials(cells, name, accuracy_of_factor):
    """Tuning trials of a row in the results, for each seed."""
    from bench.suites.method.ground import trial_name

    rows = [
        {"cell": cells.TRIAL_CELL.name, "row": trial_name(name, factor), "seed": seed, "val": val + 0.1 * seed}
        for factor, val in accuracy_of_factor.items()
        for seed in cells.TRIAL_CELL.seeds
    ]
    with cells.RESULTS.open("a") as file:
        file.writelines(json.dumps(row) + "\n" for row in rows)


def test_the_factor_that_is_best_on_validation_clips_is_used_in_other_cells(cells, tiny_cell):
    from bench.suites.method.ground import LEADERS

    write_trials(cells, "weak only", {0.5: 0.6, 1: 0.7, 2: 0.8, 4.5: 0.7})
    write_trials(cells, "KD", {0.5: 0.6, 1: 0.7, 2: 0.7, 4.5: 0.1})
    assert cells.find_tuned_row("weak only").factor == 2
    assert cells.find_tuned_row("KD").factor == 1
    assert cells.find_tuned_row("KD, x 4.5").factor == 4.5
    assert cells.find_tuned_row("clean labels").factor == 1
    equal = next(row for row in LEADERS if row.name == "KD, equal seconds")
    assert cells.find_tuned_row(equal.name) == equal
    base, _ = cells.load_cell(tiny_cell, cells.find_tuned_row("weak only, x 1"), 0)
    tuned, _ = cells.load_cell(tiny_cell, cells.find_tuned_row("weak only"), 0)
    assert tuned.training.rate == 2 * base.training.rate


def test_without_its_trials_no_row_is_begun(cells, tiny_cell, monkeypatch, tmp_path):
    write_trials(cells, "weak only", {0.5: 0.6, 1: 0.7, 2: 0.8})
    monkeypatch.setattr(cells, "CELLS", (tiny_cell,))
    monkeypatch.setattr(sys, "argv", ["cells", "--runs", str(tmp_path / "runs")])
    with pytest.raises(SystemExit, match=r"'weak only' needs the tuning trials .* --cells generated-trials-10` first"):
        cells.main()
    assert not (tmp_path / "runs").exists()


def test_a_finished_row_says_where_it_comes_from(cells, tiny_cell, tmp_path, capsys):
    stamp = cells.describe_origin()
    write_trials(cells, "weak only", TRIALS)
    assert len(stamp["commit"]) == 40
    for _, rows, seed in cells.list_missing([tiny_cell], (), ()):
        cells.run_missing(tiny_cell, rows, seed, tmp_path / "runs", stamp)
    assert cells.list_missing([tiny_cell], (), ()) == []
    weak, clean = (row for row in cells.read_results() if row["cell"] == "tiny")
    assert (weak["row"], clean["row"]) == ("weak only", "clean labels")
    assert weak["labels_before"] < 0.5
    assert clean["labels_before"] == 1
    assert weak["train"] == clean["train"] == 140  # the clips of the weak model are in neither
    assert weak["checked"] == 20
    for row in (weak, clean):
        assert {"device", "commit", "changed", "seed", "correct", "val", "seconds", "threads"} <= row.keys()
        bits = np.unpackbits(np.frombuffer(bytes.fromhex(row["correct"]), np.uint8))[: row["clips"]]
        assert bits.mean() == row["test"]
    cells.print_table([tiny_cell])
    assert "tiny | weak only | test " in capsys.readouterr().out


def test_a_row_that_fails_is_reported_and_the_others_go_on(cells, tiny_cell, tmp_path, capsys):
    cell = replace(tiny_cell, rows=("trusted only", "weak only"), sets=(*tiny_cell.sets, "labels.trusted_per_class=0"))
    for name in cell.rows:
        write_trials(cells, name, TRIALS)
    assert cells.run_missing(cell, cell.rows, 0, tmp_path / "runs", {}) == 1
    printed = capsys.readouterr()
    assert "tiny seed 0 trusted only: failed: this baseline needs checked clips" in printed.err
    assert [row["row"] for row in cells.read_results() if row["cell"] == "tiny"] == ["weak only"]
    assert cells.list_missing([cell], (), ()) == [(cell, ("trusted only",), 0)]


def test_an_interrupt_stops_all_processes(tmp_path):
    """They have hours of work; the signal reaches the first process only, as if it came from `kill`."""
    begin = "import signal; signal.signal(signal.SIGINT, signal.default_int_handler); "  # a test runner may ignore it
    begin += "from bench.suites.method.cells import main; main()"
    words = [
        "--cells",
        "generated-trials-10",
        "--processes",
        "2",
        "--runs",
        str(tmp_path / "runs"),
    ]
    study = subprocess.Popen(
        [sys.executable, "-c", begin, *words],
        cwd=ROOT,
        env=os.environ | {"SKD_EDGE_CACHE": str(tmp_path / "cache")},
        stdout=subprocess.PIPE,
        start_new_session=True,
    )
    try:
        while not list(tmp_path.glob("cache/*")):  # a process of the pool has begun
            assert study.poll() is None
            time.sleep(0.1)
        study.send_signal(signal.SIGINT)
        study.communicate(timeout=60)  # until every process that may write its output has ended
        assert study.returncode != 0
    finally:
        with suppress(ProcessLookupError):
            os.killpg(study.pid, signal.SIGKILL)


def test_the_plan_measures_steps_and_trains_nothing(cells, tiny_cell, capsys):
    cells.print_plan([(tiny_cell, ("weak only", "clean labels"), 0)], 2)
    printed = capsys.readouterr().out
    assert "tiny: 2 rows, 0.0 h on one core" in printed
    assert "in 2 processes" in printed
    assert not cells.RESULTS.exists()


def test_instance_noise_has_exactly_its_rate(cells, tiny_cell):
    from bench.suites.method.ground import find_ground_row

    sets = ("labels.noise.kind=none", *(s for s in tiny_cell.sets if s.startswith(("data.", "clip."))))
    cell = replace(tiny_cell, sets=sets, instances=0.4)
    _, data = cells.load_cell(cell, find_ground_row("KD"), 0)
    assert data.injected_noise_rate == 0.4
    assert cells.load_cell(cell, find_ground_row("KD"), 0)[1].weak_hash == data.weak_hash
