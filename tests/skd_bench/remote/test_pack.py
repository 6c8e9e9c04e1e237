"""Packs: one file that runs on a device with only numpy and a runtime."""

import ast
import os
import subprocess
import zipfile

import pytest

from skd_bench.benchmark.latency import LatencyTarget, MeasurementSettings
from skd_bench.benchmark.measurements import DeviceMeasurements
from skd_bench.benchmark.request import BenchmarkRequest
from skd_bench.errors import UsageError, UserError
from skd_bench.remote.pack import pack_bundle, pack_files, write_pack
from skd_bench.remote.runner import SshTarget, run_benchmark

FEW = MeasurementSettings(threads=1, processes=2, queries=20)


def test_a_packed_bundle_is_measured_on_a_device(bundle, there, tmp_path, device_python, run_pack_file):
    assert run_benchmark(BenchmarkRequest(bundle, FEW), pack=there / "tiny.pyz") is None
    pack = there / "tiny.pyz"
    imported = subprocess.run([device_python, "-c", "import skd_bench"], capture_output=True, check=False)
    assert imported.returncode != 0  # the package is only in the pack
    done = run_pack_file(device_python, pack, tmp=tmp_path)
    assert (done.returncode, done.stderr) == (0, "")
    assert "* artefacts/fp32.onnx" in done.stdout
    assert "wrote tiny.json" in done.stdout
    assert {p.name for p in there.iterdir()} == {"tiny.pyz", "tiny.json"}
    found = DeviceMeasurements.load(there / "tiny.json")
    assert [m.latency.n for m in found.measured] == [40, 40]
    assert found.bench["artefacts"][1]["latency"]["p50_ms"] == found.measured[1].latency.p50.value
    assert found.bench["device_id"] == found.device_id


def test_equal_content_gives_equal_bytes_and_a_small_pack(bundle, tmp_path):
    pack = pack_bundle(bundle, FEW)
    for path in bundle.rglob("*"):
        os.utime(path, (1e9, 1e9))
    assert pack_bundle(bundle, FEW) == pack
    assert pack_bundle(bundle, MeasurementSettings(2, 2, 20)) != pack
    path = write_pack(tmp_path / "a.pyz", pack, outside=bundle)
    with zipfile.ZipFile(path) as file:
        code = [i for i in file.infolist() if not i.filename.startswith("parcel/")]
        assert file.namelist() == sorted(file.namelist())
    assert sum(i.compress_size for i in code) < 2**20
    assert not any(".." in i.filename or i.filename.endswith(".pyc") for i in code)


def test_files_outside_the_manifest_do_not_travel(bundle, tmp_path):
    (bundle / "notes.txt").write_text("from a colleague")
    with zipfile.ZipFile(write_pack(tmp_path / "a.pyz", pack_bundle(bundle, FEW))) as file:
        names = {name for name in file.namelist() if name.startswith("parcel/bundle/")}
    assert names == {
        f"parcel/bundle/{name}" for name in ("manifest.json", "artefacts/fp32.onnx", "artefacts/other.onnx")
    }


def test_a_pack_that_cannot_be_made_is_reported(bundle, tmp_path):
    with pytest.raises(UsageError, match="is inside the bundle"):
        run_benchmark(BenchmarkRequest(bundle), pack=bundle / "artefacts" / "x.pyz")
    with pytest.raises(UsageError, match="give one of them"):
        run_benchmark(BenchmarkRequest(bundle), pack=tmp_path / "x.pyz", ssh=SshTarget("device"))
    with pytest.raises(UserError, match=r"cannot read .*gone\.onnx"):
        pack_files([LatencyTarget("gone", tmp_path / "gone.onnx")], FEW)
    (bundle / "artefacts" / "other.onnx").write_bytes(b"changed")
    with pytest.raises(UserError, match="was changed after it was written"):
        run_benchmark(BenchmarkRequest(bundle), pack=tmp_path / "x.pyz")
    assert not list(tmp_path.rglob("*.pyz"))


def test_a_missing_package_on_the_device_is_reported_in_one_line(bundle, there, tmp_path, lean, run_pack_file):
    pack = write_pack(there / "tiny.pyz", pack_bundle(bundle, FEW))
    done = run_pack_file(lean(tmp_path / "bare"), pack, tmp=tmp_path)
    assert done.returncode == 1
    assert done.stderr.startswith("error: this needs numpy: ")
    assert "-m pip install numpy onnxruntime" in done.stderr
    assert done.stderr.count("\n") == 1


# What Python 3.11 brought, by module; names only (their use is what a module imports or reads from the module).
NEW_IN_3_11 = {
    "typing": {"NotRequired", "Required", "Self", "Never", "LiteralString", "Unpack", "assert_never", "assert_type"},
    "datetime": {"UTC"},
    "hashlib": {"file_digest"},
    "enum": {"StrEnum", "ReprEnum", "verify"},
    "contextlib": {"chdir"},
    "tomllib": {"load", "loads"},
    "asyncio": {"TaskGroup", "timeout", "Runner"},
}


def newer_names(tree):
    """Names of Python 3.11 that a module needs when it runs; what only type checkers read does not count."""
    skipped = {
        id(inner)
        for node in ast.walk(tree)
        if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
        for inner in ast.walk(node)
    }
    for node in ast.walk(tree):
        if id(node) in skipped:
            continue
        if isinstance(node, ast.ImportFrom):
            yield from {a.name for a in node.names} & NEW_IN_3_11.get(node.module or "", set())
        if isinstance(node, ast.Attribute) and isinstance(node.value, ast.Name):
            yield from {node.attr} & NEW_IN_3_11.get(node.value.id, set())
        if isinstance(node, ast.TryStar):
            yield "except*"


def test_what_travels_needs_no_python_newer_than_3_10(root):
    found = {}
    for file in sorted((root / "bench" / "skd_bench").rglob("*.py")):
        source = file.read_text("utf-8")
        if names := sorted(newer_names(ast.parse(source, feature_version=(3, 10)))):
            found[file.name] = names
    assert found == {}
    assert sorted(newer_names(ast.parse("from typing import Self\nimport datetime\ndatetime.UTC"))) == ["Self", "UTC"]
