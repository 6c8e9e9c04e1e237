"""The readers of files from elsewhere: an intact file of each kind, how to break it, what a command does with it."""

from __future__ import annotations

import io
import json
import runpy
import zipfile
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
import onnx
import torch
from onnx import TensorProto, helper, numpy_helper
from safetensors.torch import save as save_safetensors

from bench.suites.robustness.broken_inputs import Break, break_bytes, break_json, break_text
from skd_bench.benchmark.benchmark import benchmark_bundle
from skd_bench.benchmark.latency import LatencyTarget, MeasurementSettings, measure_latency
from skd_bench.benchmark.measurements import SCHEMA, DeviceMeasurements, MeasuredFile
from skd_bench.benchmark.request import BenchmarkRequest
from skd_bench.benchmark.results import without_samples
from skd_bench.bundle.archive import open_bundle
from skd_bench.bundle.manifest import Artefact, Manifest
from skd_bench.device.info import read_device_info
from skd_bench.evaluation.labelled_videos import load_labelled_videos
from skd_bench.evaluation.verify_bundle import verify_bundle
from skd_bench.files import sha256_file
from skd_bench.inference.predict import load_artefact
from skd_bench.metrics.event_metrics import read_events
from skd_bench.remote.runner import check_benchmark
from skd_bench.runtimes.base import make_random_clip
from skd_bench.text_tables import format_benchmark_table
from skd_bench.video.types import Preprocessing, Sampling
from skd_edge.data.csv_files import read_sheet
from skd_edge.data.sources.registry import list_clips
from skd_edge.models.external.logits_file import read_logits_file
from skd_edge.models.weights import load_matching_weights, load_weights
from skd_edge.recipe.data import ListData, TableData
from skd_edge.recipe.loader import load_recipe
from skd_edge.report.comparison.compare import compare_sources
from skd_edge.report.html import render_report_html
from skd_edge.report.markdown import render_report_markdown
from skd_edge.report.schema import load_report
from skd_export.analysis.operator_profile import profile_operators

ROOT = Path(__file__).resolve().parents[3]
CLASSES = ["dark", "bright", "green"]
SHAPE = (3, 4, 16, 16)


@dataclass(frozen=True)
class Reader:
    """One kind of file.

    Attributes:
        name: Its name in the results.
        files: Names of intact files of this kind, and their bytes.
        damage: How to break one.
        read: Does what a command does with a file; raises a `UserError` where it is refused.
    """

    name: str
    files: dict[str, bytes]
    damage: Break
    read: Callable[[Path], object]


def make_readers(folder: Path) -> list[Reader]:
    """All readers, with intact files made in an empty folder (some seconds)."""
    bundle = _make_bundle(folder / "bundle")
    network = (bundle / "tiny.onnx").read_bytes()
    bench, pack = _measure(bundle)
    manifest, report = (bundle / "manifest.json").read_bytes(), _read_sample("full_result")
    recipes = {p.name: p.read_bytes() for p in (ROOT / "recipes").glob("*.yaml") if b"${" not in p.read_bytes()}
    videos = b"path,label,group\na.mp4,dark,1\nb.mp4,bright,\n"
    compared = json.dumps(json.loads(_compare(_write(folder / "bench.json", bench), as_json=True))).encode()
    votes = b'clip,trusted,x\r\na/0.mp4,dark,1\r\n\'=b.mp4,bright,\r\n"c ""1"".mp4",green,2\r\n'
    return [
        Reader("weights", _make_weights(), break_bytes, _read_weights),
        Reader("manifest", {"manifest.json": manifest}, break_json, _read_manifest(bundle)),
        Reader("onnx", {"tiny.onnx": network}, break_bytes, _read_network(bundle)),
        Reader("measurements", {"pack.json": pack}, break_json, _read_measurements),
        Reader("benchmark", {"bench.json": bench, "comparison.json": compared}, break_json, _compare),
        Reader("report", {"report.json": report}, break_json, _read_report),
        Reader("recipe", recipes, break_text, _read_recipe),
        Reader("clip tables", _make_tables(), break_text, _read_clip_table),
        Reader("label files", {"labels.csv": votes}, break_text, _read_labels),
        Reader(
            "labelled videos",
            {"videos.csv": videos},
            break_text,
            _list_videos,
        ),
        Reader("events", {"events.csv": b"video,start,end,class\na.mp4,0.5,2,dark\n"}, break_text, _read_events),
        Reader("logits", {"logits.npz": _make_logits()}, break_bytes, read_logits_file),
        Reader("zip", {"bundle.zip": _zip_folder(bundle)}, break_bytes, _read_zip),
    ]


# ------------------------------------------------------------------------------------------ intact files
def _make_bundle(folder: Path) -> Path:
    """A bundle of one tiny network, without sample clips."""
    folder.mkdir(parents=True)
    weights = np.random.default_rng(0).standard_normal((3, int(np.prod(SHAPE)))).astype(np.float32)
    graph = helper.make_graph(
        [
            helper.make_node("Flatten", ["clip"], ["flat"], axis=1),
            helper.make_node("Gemm", ["flat", "w", "b"], ["sums"], transB=1),
            helper.make_node("Relu", ["sums"], ["logits"]),
        ],
        "tiny",
        [helper.make_tensor_value_info("clip", TensorProto.FLOAT, ["batch", *SHAPE])],
        [helper.make_tensor_value_info("logits", TensorProto.FLOAT, ["batch", 3])],
        [numpy_helper.from_array(weights, "w"), numpy_helper.from_array(np.zeros(3, np.float32), "b")],
    )
    file = folder / "tiny.onnx"
    onnx.save(helper.make_model(graph, opset_imports=[helper.make_opsetid("", 18)], ir_version=10), file)
    preprocess = Preprocessing(16, 16, "crop", (0.5, 0.5, 0.5), (0.25, 0.25, 0.25))
    artefact = Artefact(
        "tiny.onnx",
        sha256_file(file),
        file.stat().st_size,
        "fp32",
        "ort",
        "tiny",
        ["teacher", "tiny"],
        parity={"agreement": 1.0},
        measured={"accuracy": 0.5, "interval": [0.4, 0.6], "p50_ms": 1.0, "name": "tiny"},
    )
    Manifest(
        1,
        "fuzz",
        "the suite",
        CLASSES,
        "float_clip",
        Sampling(4),
        preprocess,
        "tiny.onnx",
        [artefact],
        licences={"data": "CC0"},
        provenance={"seed": 0},
    ).save(folder)
    return folder


def _measure(bundle: Path) -> tuple[bytes, bytes]:
    """What `bench --json` prints, and what a pack writes, for the tiny bundle."""
    settings = MeasurementSettings(1, 1, 20)
    result = benchmark_bundle(BenchmarkRequest(bundle, settings))
    latency = measure_latency([LatencyTarget("tiny", bundle / "tiny.onnx", "ort")], settings)["tiny"]
    measured = [MeasuredFile(sha256_file(bundle / "tiny.onnx"), "ort", latency)]
    pack = DeviceMeasurements(SCHEMA, "0" * 12, read_device_info(), 1, 1, 20, 1, measured, result)
    return json.dumps(without_samples(result)).encode(), json.dumps(pack.to_json()).encode()


def _make_weights() -> dict[str, bytes]:
    state = _make_network().state_dict()
    files = {"weights.safetensors": save_safetensors(state)}
    for name, content, plain in (("weights.pt", state, True), ("old.pt", {"state_dict": state}, False)):
        buffer = io.BytesIO()
        torch.save(content, buffer, _use_new_zipfile_serialization=plain)
        files[name] = buffer.getvalue()
    return files


def _make_network() -> torch.nn.Module:
    torch.manual_seed(0)
    return torch.nn.Sequential(torch.nn.Linear(4, 3), torch.nn.BatchNorm1d(3), torch.nn.Linear(3, 2))


def _make_tables() -> dict[str, bytes]:
    rows = [
        f"{label}/{i}.mp4,{label},{split},{i},0:0{i}"
        for i, split in enumerate(("train", "train", "val", "test"))
        for label in "ab"
    ]
    lines = [f"train/{i} x.mp4 {label}" for i, label in enumerate("abab")]
    return {
        "clips.csv": "\n".join(["path,label,split,group,start", *rows, ""]).encode(),
        "clips.txt": "\n".join([*lines, ""]).encode(),
    }


def _make_logits() -> bytes:
    buffer = io.BytesIO()
    arrays: dict[str, Any] = {"clips": np.array(["a", "b"]), "logits": np.eye(2, 3), "classes": np.array(CLASSES)}
    np.savez_compressed(buffer, **arrays)
    return buffer.getvalue()


def _zip_folder(folder: Path) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as file:
        for path in sorted(folder.iterdir()):
            file.write(path, path.name)
    return buffer.getvalue()


def _read_sample(function: str) -> bytes:
    """The report of a run with every part, as the tests have it."""
    return json.dumps(runpy.run_path(str(ROOT / "tests/skd_edge/report/sample.py"))[function]()).encode()


def _write(path: Path, content: bytes) -> Path:
    path.write_bytes(content)
    return path


# ------------------------------------------------------------------------------------------ what commands do with them
def _read_weights(path: Path) -> None:
    load_weights(_make_network(), path)
    load_matching_weights(_make_network(), path, "the network")


def _read_manifest(bundle: Path) -> Callable[[Path], object]:
    def read(path: Path) -> None:
        (path.parent / "tiny.onnx").write_bytes((bundle / "tiny.onnx").read_bytes())
        report = verify_bundle(path.parent, run=False)
        json.dumps(report.to_json())
        manifest = Manifest.load(path.parent)
        load_artefact(path.parent, manifest.find_artefact(), threads=1).close()
        compare_sources([path.parent], as_json=True)

    return read


def _read_network(bundle: Path) -> Callable[[Path], object]:
    def read(path: Path) -> None:
        artefact = Artefact(path.name, sha256_file(path), path.stat().st_size, "fp32", "ort", "tiny", ["tiny"])
        session = load_artefact(path.parent, artefact, threads=1)
        session.run(make_random_clip(session))
        session.close()
        profile_operators(path)

    return read


def _read_measurements(path: Path) -> None:
    measurements = DeviceMeasurements.load(path)
    assert len(measurements.device_id) == 12
    if measurements.bench is not None:
        check_benchmark(measurements.bench, "device")  # as for the result of another machine
        format_benchmark_table(measurements.bench)
    _compare(path)


def _compare(path: Path, *, as_json: bool = False) -> str:
    folder = path.parent
    output = compare_sources([path], as_json=as_json, table=folder / "out.csv", store=folder / "out.json")
    return output.text


def _read_report(path: Path) -> None:
    report = load_report(path.parent)
    render_report_markdown(report)
    if path.stat().st_size % 8 == 0:  # a page takes long
        render_report_html(report)
    compare_sources([path.parent], as_json=True, table=path.parent / "out.csv")


def _read_recipe(path: Path) -> None:
    load_recipe(str(path), ())


def _read_clip_table(path: Path) -> None:
    splits: dict[str, Any] = {s: {"split": [s]} for s in ("train", "val", "test")}
    if path.suffix == ".csv":
        table = {"kind": "csv", "root": path.parent, "file": path.name, "group": "group", "start": "start", **splits}
        data: Any = TableData.model_validate(table)
    else:
        for split in ("val", "test"):
            (path.parent / f"{split}.txt").write_text(f"{split}/0.mp4 a\n{split}/1.mp4 b\n")
        files = {"train": path.name, "val": "val.txt", "test": "test.txt"}
        data = ListData.model_validate({"kind": "list", "root": path.parent, **files})
    list_clips(data, seed=0, cache=path.parent)


def _read_labels(path: Path) -> None:
    list(read_sheet(path, ["clip", "trusted"]))


def _list_videos(path: Path) -> None:
    load_labelled_videos(path, CLASSES)


def _read_events(path: Path) -> None:
    read_events(path, CLASSES)


def _read_zip(path: Path) -> None:
    with open_bundle(path) as folder:
        verify_bundle(folder, run=False)
