"""Sources side by side: read from every kind, refused across devices, harmless as HTML and CSV."""

from __future__ import annotations

import csv
import io
import json
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest
from hypothesis import given
from hypothesis import strategies as st

from skd_bench.benchmark.results import save_result
from skd_bench.errors import UsageError, UserError
from skd_bench.video.types import Preprocessing, Sampling
from skd_edge.cli import main as cli
from skd_edge.report.comparison.compare import compare_sources, make_source_labels
from skd_edge.report.comparison.json_schemas import SCHEMAS, format_json_schema
from skd_edge.report.comparison.markdown import escape_csv_cell
from skd_edge.report.comparison.readers import read_source
from skd_export.bundle.writer import ModelFile, write_bundle

CARD = {"cpu": "Test CPU", "cores_usable": 2, "isa": ["avx2"], "runtimes": {"ort": "1.30"}, "gpus": None}


def bench_json(path: Path, p50: float, *, card: dict[str, Any] | None = None, name: str = "small") -> Path:
    """What `skd-edge bench --json` prints, one FP32 file."""
    latency = {
        "name": "f",
        "n": 1200,
        "processes": 5,
        "p50_ms": p50,
        "p50_interval": [0.98 * p50, 1.02 * p50],
        "p90_ms": 1.2 * p50,
        "p90_interval": [1.1 * p50, 1.3 * p50],
        "p99_ms": None,
        "p99_interval": None,
        "load_ms": 12.0,
        "first_ms": 3.0,
        "steady": True,
        "peak_mb": 80.0,
    }
    artefact = {
        "file": f"artefacts/{name}.fp32.onnx",
        "default": True,
        "student": name,
        "path": ["teacher", name],
        "precision": "fp32",
        "runtime": "ort",
        "bytes": 123_000,
        "facts": {},
        "latency": latency,
        "energy": {"reason": "not measurable here: no counter"},
        "claimed": {"accuracy": 0.8},
        "same_device": True,
        "batches": [{"batch": b, "p50_ms": p50 * b, "clips_per_second": 900 / p50} for b in (1, 2)],
    }
    data = {"schema": 1, "bundle": "b", "name": "n", "device": card or CARD, "artefacts": [artefact]}
    path.write_text(json.dumps(data))
    return path


def run_folder(path: Path, raw: dict[str, Any]) -> Path:
    path.mkdir()
    (path / "report.json").write_text(json.dumps(raw))
    return path


def test_a_run_and_a_bench_share_names_and_metrics(tmp_path: Path, sample: ModuleType) -> None:
    run = read_source(run_folder(tmp_path / "run", sample.full_result()), "run")
    assert len(run.rows) == 8  # the trained ones
    assert run.rows[0].metrics.keys() >= {"accuracy", "p50_ms", "p90_ms", "bytes"}
    assert "broad" not in {row.student for row in run.rows}
    assert run.samples
    assert run.sweeps
    [row] = read_source(bench_json(tmp_path / "b.json", 4.0), "b").rows
    assert row.name == "teacher>small fp32"
    assert row.metrics["p50_ms"] == 4
    assert row.metrics["accuracy"] == 0.8
    assert "p99_ms" not in row.metrics
    assert row.intervals["p90_ms"] == (4.4, 5.2)


def test_a_result_with_its_samples_gives_sweep_and_ecdf(tmp_path: Path) -> None:
    data = json.loads(bench_json(tmp_path / "b.json", 4.0).read_text())
    own = data["artefacts"][0] | {"name": "artefacts/small.fp32.onnx"}
    other = own | {"name": "artefacts/small.fp32.onnx @ torch", "runtime": "torch", "batches": []}
    samples = {a["name"]: [[4.0, 4.1], [4.2]] for a in (own, other)} | {"artefacts/small.fp32.onnx [batch 2]": [[8.0]]}
    path = save_result(data | {"artefacts": [own, other], "samples_ms": samples}, tmp_path / "saved.json")
    read = read_source(path, "saved")
    assert [row.name for row in read.rows] == ["teacher>small fp32", "teacher>small fp32 @ torch"]
    assert read.samples == {row.name: [4.0, 4.1, 4.2] for row in read.rows}
    assert [p.batch for p in read.sweeps["teacher>small fp32"]] == [1, 2]
    path.with_suffix(".npz").unlink()
    assert read_source(path, "saved").samples == {}


def test_a_bundle_and_an_accuracy_are_sources(tmp_path: Path) -> None:
    data = json.loads(bench_json(tmp_path / "b.json", 4.0).read_text())
    row = {
        "file": "f",
        "default": True,
        "precision": "int8",
        "student": "small",
        "path": ["teacher", "small"],
        "views": 3,
        "accuracy": {"top1": {"value": 0.8, "low": 0.7, "high": 0.9}, "macro_f1": 0.79, "ece": 0.1},
        "against_fp32": {"agreement": 0.99},
        "cost": {"decode_ms": 3.0, "preprocess_ms": 0.1, "infer_ms": 9.0},
    }
    path = tmp_path / "accuracy.json"
    path.write_text(json.dumps({"kind": "accuracy", "device": data["device"], "rows": [row]}))
    [read] = read_source(path, "a").rows
    assert read.name == "teacher>small int8, 3 views"
    assert read.metrics["agreement"] == 0.99
    assert read.intervals == {"accuracy": (0.7, 0.9)}
    model = tmp_path / "small.onnx"
    model.write_bytes(b"not run here")
    measured = {"accuracy": 0.8, "interval": [0.7, 0.9], "p50_ms": 4.0, "p50_interval": [3.9, 4.1], "device": "abc"}
    write_bundle(
        tmp_path / "bundle",
        name="n",
        classes=["a", "b"],
        sampling=Sampling(4),
        preprocess=Preprocessing(8, 8, "crop", (0.5, 0.5, 0.5), (0.2, 0.2, 0.2)),
        models=[ModelFile(model, "fp32", "small", ["teacher", "small"], parity={"agreement": 1.0}, measured=measured)],
        licences={},
        created_by="test",
        provenance={},
    )
    [row_of_bundle] = read_source(tmp_path / "bundle", "bundle").rows
    assert row_of_bundle.name == "teacher>small fp32"
    assert row_of_bundle.device_id == "abc"
    assert row_of_bundle.metrics == {"accuracy": 0.8, "p50_ms": 4.0, "bytes": 12.0, "agreement": 1.0}
    assert row_of_bundle.intervals == {"accuracy": (0.7, 0.9), "p50_ms": (3.9, 4.1)}


def test_the_table_names_no_winner_where_intervals_overlap(tmp_path: Path) -> None:
    same, slower = bench_json(tmp_path / "same.json", 4.01), bench_json(tmp_path / "slower.json", 6.0)
    said = compare_sources([bench_json(tmp_path / "a.json", 4.0), same, slower])
    lines = said.text.splitlines()
    assert "intervals overlap" in next(line for line in lines if "same" in line)
    assert "1.50 × a.json" in next(line for line in lines if "slower" in line)
    assert not said.failed


def test_devices_are_not_compared_unless_forced(tmp_path: Path) -> None:
    paths = [bench_json(tmp_path / "a.json", 4.0), bench_json(tmp_path / "b.json", 2.0, card=CARD | {"cpu": "Other"})]
    with pytest.raises(UserError, match=r"cpu: Test CPU and Other.*--force"):
        compare_sources(paths)
    forced = compare_sources(paths, force=True).text
    assert "another device" in forced
    assert "do not compare" in forced
    assert "0.50 ×" not in forced


def test_a_stored_comparison_is_a_baseline(tmp_path: Path) -> None:
    stored = tmp_path / "baseline.json"
    compare_sources([bench_json(tmp_path / "old.json", 4.0)], store=stored)
    new = bench_json(tmp_path / "new.json", 4.6)
    failed = compare_sources([new], baseline=stored, rules=["p90_ms>+10%", "bytes>+0"])
    assert failed.failed
    assert "1 of 2 checks failed" in failed.text
    assert "4.8 -" in failed.text
    assert "+15 %" in failed.text
    passed = compare_sources([new], baseline=stored, rules=["p90_ms>+20%"], as_json=True)
    assert not passed.failed
    assert json.loads(passed.text)["gate"]["judged"] == 1
    with pytest.raises(UserError, match="not compared"):
        compare_sources([bench_json(tmp_path / "x.json", 4.0, card=CARD | {"cpu": "Other"})], baseline=stored)


def test_the_command_ends_with_1_and_the_failed_rows(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    old, new = bench_json(tmp_path / "old.json", 4.0), bench_json(tmp_path / "new.json", 5.0)
    assert cli.run(["report", str(new), "--baseline", str(old), "--fail-if", "p50_ms>+10%"]) == 1
    assert "p50\\_ms 4 -" in capsys.readouterr().out
    assert cli.run(["report", str(new), "--baseline", str(old), "--fail-if", "p50_ms>+30%"]) == 0
    assert cli.run(["report", str(new), "--baseline", str(old), "--fail-if", "speed>1"]) == 2
    assert "there are: accuracy, p50_ms, p90_ms" in capsys.readouterr().err
    assert cli.run(["report"]) == 2


def test_the_page_escapes_everything_and_the_csv_starts_no_formula(tmp_path: Path, page_of: Any) -> None:
    evil = '=HYPERLINK("http://evil.example")<script>alert(1)</script>'
    path = bench_json(tmp_path / "<b>.json", 4.0, card=CARD | {"cpu": f"<img src=x>{evil}"}, name=evil)
    html, table = tmp_path / "c.html", tmp_path / "c.csv"
    compare_sources([path], html=html, table=table)
    page = page_of(html.read_text())
    assert "img" not in page.tags
    assert page.tags.count("script") <= 4
    assert evil in page.text
    assert page.handlers == []
    rows = list(csv.reader(io.StringIO(table.read_text())))
    assert rows[0][:3] == ["source", "name", "student"]
    assert rows[1][2] == f"'{evil}"
    assert float(rows[1][rows[0].index("p50_ms")]) == 4
    assert float(rows[1][rows[0].index("p50_ms_high")]) == pytest.approx(4.08)


@given(st.text())
def test_no_cell_starts_a_formula(text: str) -> None:
    cell = escape_csv_cell(text)
    assert not cell.lstrip().startswith(("=", "+", "-", "@", "\t", "\r"))
    assert "\n" not in cell


def test_what_holds_no_measurements_is_refused(tmp_path: Path) -> None:
    (tmp_path / "list.json").write_text("[1]")
    (tmp_path / "other.json").write_text("{}")
    (tmp_path / "broken.json").write_text("{")
    (tmp_path / "folder").mkdir()
    for name, said in (
        ("list", "a list"),
        ("other", "no measurements"),
        ("broken", "no JSON"),
        ("none", "cannot read"),
    ):
        with pytest.raises(UserError, match=said):
            read_source(tmp_path / f"{name}.json", "x")
    with pytest.raises(UserError, match="neither a bundle"):
        read_source(tmp_path / "folder", "x")
    newer = tmp_path / "newer.json"
    newer.write_text(json.dumps({"kind": "comparison", "schema": 99}))
    with pytest.raises(UserError, match="schema 99"):
        read_source(newer, "x")


def test_labels_are_as_short_as_they_can_be() -> None:
    assert make_source_labels([Path("/a/x"), Path("/b/y")]) == ["x", "y"]
    assert make_source_labels([Path("/a/run/bundle"), Path("/b/run/bundle")]) == ["a/run/bundle", "b/run/bundle"]
    with pytest.raises(UsageError, match="given twice"):
        make_source_labels([Path("/a"), Path("/a")])


@pytest.mark.parametrize("name", SCHEMAS)
def test_the_published_schemas_are_those_of_the_code(name: str) -> None:
    published = Path(__file__).parents[4] / f"docs/schemas/{name}.schema.json"
    assert published.read_text() == format_json_schema(name) + "\n", f"skd-edge report --schema {name} > {published}"
