"""``skd-edge labels audit``: the page, the table, and using the table; compress reuses the jobs that it trains."""

from __future__ import annotations

import csv
import json

import pytest
import yaml

from skd_edge.cli.main import run
from skd_edge.data.csv_files import read_sheet, write_sheet
from skd_edge.execution.job_graph import build_recipe_job_graph, fingerprint_of
from skd_edge.labels.dataset import load_training_data
from skd_edge.pipeline.audit_labels import audit_labels
from skd_edge.pipeline.context import RunOptions
from skd_edge.recipe.loader import load_recipe
from skd_edge.run_folder import open_cache, read_journal

TINY = {
    "name": "tiny",
    "data": {"kind": "generated", "train": 80, "val": 20, "test": 20, "frames": 8, "size": 16},
    "clip": {"frames": 4, "size": 16},
    "labels": {"noise": {"kind": "symmetric", "rate": 0.3}},
    "teacher": {"width": 4},
    "students": [{"name": "s", "width": 4}],
    "training": {"teacher_epochs": 1, "epochs": 1, "batch": 32, "rounds": 1},
}


@pytest.fixture
def recipe(tmp_path):
    (tmp_path / "r.yaml").write_text(yaml.safe_dump(TINY))
    return tmp_path / "r.yaml"


def test_from_the_recipe_to_the_page_and_back_with_checked_labels(recipe, tmp_path, capsys):
    out = tmp_path / "run"
    assert run(["labels", "audit", str(recipe), "--out", str(out), "--top", "7", "--threads", "1"]) == 0
    assert capsys.readouterr().out.strip() == str(out / "audit" / "index.html")
    found = json.loads((out / "audit" / "audit.json").read_text())
    page = (out / "audit" / "index.html").read_text()
    assert len(found["suspects"]) == 7
    assert page.count("data:image/jpeg;base64,") == 7
    assert "http://" not in page.replace("http://www.w3.org", "")
    assert "https://" not in page
    assert found["known_rate"] == pytest.approx(0.3, abs=0.01)
    assert sum(c["labelled"] for c in found["classes"]) == 80
    assert sum(c["val"] for c in found["classes"]) == 20
    accuracies = [e["accuracy"] for e in read_journal(out) if e["event"] == "job_finished"]
    assert found["teacher"] == accuracies[-1]
    assert f"The teacher classifies {100 * found['teacher']:.0f}" in page

    # Only the teacher was trained, by the same jobs that compress would train first.
    loaded = load_recipe(str(recipe))
    material = load_training_data(loaded, open_cache())
    wanted = {
        n.hash
        for n in build_recipe_job_graph(loaded, fingerprint_of(material), loaded.students)
        if n.spec.role in ("scout", "teacher")
    }
    trained = [e["job"] for e in read_journal(out) if e["event"] == "job_finished"]
    assert set(trained) == wanted
    assert len(trained) == 2

    # The table is read as trusted labels. Another audit does not suspect them, and keeps every decision in the table.
    rows = [row for _, row in read_sheet(out / "audit" / "audit.csv")]
    assert len(rows) == 80
    assert [row["clip"] for row in rows[:7]] == [s["clip"] for s in found["suspects"]]
    for row in rows[:3]:
        row["trusted"] = row["label"]
    write_sheet(tmp_path / "t.csv", list(rows[0]), [list(row.values()) for row in rows])
    rows[3]["trusted"] = "spin_cw"
    write_sheet(out / "audit" / "audit.csv", list(rows[0]), [list(row.values()) for row in rows])
    checked = load_recipe(str(recipe), [f"labels.trusted={tmp_path / 't.csv'}"])
    audit_labels(checked, out, RunOptions(), top=5, pictures=False)
    again = json.loads((out / "audit" / "audit.json").read_text())
    assert again["trusted"] == 3
    assert not {row["clip"] for row in rows[:3]} & {s["clip"] for s in again["suspects"]}
    assert "data:image/jpeg" not in (out / "audit" / "index.html").read_text()
    kept = {row["clip"]: row["trusted"] for _, row in read_sheet(out / "audit" / "audit.csv") if row["trusted"]}
    assert kept == {row["clip"]: row["trusted"] for row in rows[:4]}
    labels = list((out / "labels").glob("*.csv"))
    with max(labels, key=lambda p: p.stat().st_mtime).open(newline="") as file:
        why = {row["clip"]: row["why"] for row in csv.DictReader(file)}
    assert {why[row["clip"]] for row in rows[:3]} == {"trusted"}


def test_names_of_clips_and_classes_are_escaped_on_the_page():
    from skd_edge.report.audit_html import render_audit_html

    evil = '<script>alert(1)</script>"'
    rate, matrix = {"value": 0.1, "low": 0.0, "high": 0.2}, [[0.9, 0.1], [0.1, 0.9]]
    noise = {
        "rate": rate,
        "classes": [evil, "b"],
        "matrix": matrix,
        "low": [[0, 0], [0, 0]],
        "high": [[1, 1], [1, 1]],
        "within_parent": None,
    }
    suspect = {"rank": 1, "clip": evil, "label": evil, "proposed": "b", "wrong": 1.0, "confidence": 1.0, "trusted": ""}
    classes = [{"class": evil, "labelled": 0, "wrong": 0.0, "after": 1, "trusted": 0, "val": 0, "test": 0}]
    page = render_audit_html(
        {
            "name": evil,
            "seed": 0,
            "clips": 1,
            "unlabelled": 0,
            "trusted": 0,
            "doubtful": 1,
            "ranked": 1,
            "known_rate": None,
            "noise": noise,
            "suspects": [suspect],
            "classes": classes,
            "annotators": [{"name": evil, "accuracy": None, "votes": 0}],
        },
        {},
    )
    assert "<script>alert" not in page
    assert page.count("&lt;script&gt;alert(1)") >= 5
