"""Targets on a device: compiled once, refused with a reason, scored as the engine answers."""

import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from skd_bench.benchmark.engines.device_job import (
    compute_target_logits,
    describe_files,
    find_engine_folder,
    prepare_targets,
    read_prepared_targets,
)
from skd_bench.benchmark.latency import (
    FailedTargetError,
    LatencyTarget,
    MeasurementSettings,
    measure_latency,
    measure_runnable,
)
from skd_bench.device.info import read_device_info
from skd_bench.errors import EXIT_PAUSED, UserError
from skd_bench.files import sha256_file
from skd_bench.runtimes import openvino, registered_runtimes
from skd_bench.runtimes.base import CompileOptions
from skd_bench.video.types import Preprocessing

PREPROCESS = Preprocessing(16, 16, "crop", (0.45, 0.45, 0.45), (0.225, 0.225, 0.225))
SETTINGS = MeasurementSettings(processes=1, queries=12, seconds=0.05, warm_seconds=0.02)
OPTIONS = CompileOptions()


@pytest.fixture
def targets(network, tmp_path):
    source = network(tmp_path / "net.onnx")
    return [LatencyTarget("cpu", source), LatencyTarget("gpu", source, "tensorrt")]


def test_an_engine_is_compiled_once_and_measured(targets, tmp_path, tensorrt_double):
    steps = []
    first = prepare_targets(targets, tmp_path / "engines", OPTIONS, SETTINGS, lambda *step: steps.append(step))
    assert steps == [(0, 2), (1, 2)]
    assert first.ready["cpu"] == targets[0]
    assert first.built == ("gpu",)
    engine = first.ready["gpu"].path
    assert first.facts["gpu"]["engine_sha256"] == sha256_file(engine)
    again = prepare_targets(targets, tmp_path / "engines", OPTIONS, SETTINGS)
    assert again.built == ()
    assert (again.ready, again.facts) == (first.ready, first.facts)
    other = prepare_targets(targets, tmp_path / "engines", replace(OPTIONS, tf32=True), SETTINGS)
    assert other.built == ("gpu",)
    assert other.ready["gpu"].path != engine
    found = measure_latency(list(first.ready.values()), SETTINGS, memory=False)
    assert found["cpu"].n == 12
    assert found["gpu"].n > 12  # at least 0.05 s, and such a query takes microseconds


def test_of_several_builds_the_one_of_median_latency_is_prepared(targets, tmp_path, tensorrt_double):
    three = replace(SETTINGS, builds=3)
    first = prepare_targets(targets, tmp_path / "engines", OPTIONS, three)
    builds = first.facts["gpu"]["builds"]
    assert len({row["engine_sha256"] for row in builds}) == 3  # each with a timing cache of its own
    median = sorted(row["p50_ms"] for row in builds)[1]
    [chosen] = [row["engine_sha256"] for row in builds if row["p50_ms"] == median]
    assert chosen == sha256_file(first.ready["gpu"].path) == first.facts["gpu"]["engine_sha256"]
    assert "builds" not in first.facts.get("cpu", {})
    again = prepare_targets(targets, tmp_path / "engines", OPTIONS, three)
    assert (again.ready, again.facts, again.built) == (first.ready, first.facts, ())  # nor measured again
    stored = read_prepared_targets(targets, tmp_path / "engines", OPTIONS)
    assert (stored.ready, stored.facts) == (first.ready, first.facts)
    once = prepare_targets(targets, tmp_path / "engines", OPTIONS, SETTINGS)
    assert "builds" not in once.facts["gpu"]
    assert once.facts["gpu"]["engine_sha256"] == builds[0]["engine_sha256"]


def test_a_changed_engine_is_compiled_again(targets, tmp_path, tensorrt_double):
    engine = prepare_targets(targets, tmp_path / "engines", OPTIONS, SETTINGS).ready["gpu"].path
    with open(engine, "ab") as file:
        file.write(b"x")
    again = prepare_targets(targets, tmp_path / "engines", OPTIONS, SETTINGS)
    assert again.built == ("gpu",)
    assert again.facts["gpu"]["engine_sha256"] == sha256_file(engine)


def test_an_engine_of_another_version_is_compiled_again(targets, tmp_path, tensorrt_double):
    """After an upgrade of TensorRT the stored engine is whole, but no longer one that the runtime loads."""
    engine = Path(prepare_targets(targets, tmp_path / "engines", OPTIONS, SETTINGS).ready["gpu"].path)
    metadata = engine.with_name(engine.name + ".json")
    metadata.write_text(metadata.read_text().replace("10.13.3+double", "10.12.0"))
    again = prepare_targets(targets, tmp_path / "engines", OPTIONS, SETTINGS)
    assert (list(again.ready), again.refused) == (["cpu", "gpu"], {})
    assert "10.13.3+double" in metadata.read_text()
    assert measure_latency([again.ready["gpu"]], SETTINGS, memory=False)["gpu"].n > 12


def test_a_stored_engine_that_cannot_run_now_is_refused(targets, tmp_path, tensorrt_double):
    prepare_targets(targets, tmp_path / "engines", OPTIONS, SETTINGS)
    tensorrt_double("lost")
    again = prepare_targets(targets, tmp_path / "engines", OPTIONS, SETTINGS)
    assert list(again.ready) == ["cpu"]
    assert "unspecified launch failure" in again.refused["gpu"]


def test_each_gpu_has_its_own_engines(tmp_path):
    info = read_device_info()
    gpus = (None, "0", "1", "GPU-8a56", "../../x")
    folders = [find_engine_folder(tmp_path, info, gpu) for gpu in gpus]
    assert len(set(folders)) == len(gpus)
    assert {folder.resolve().parent for folder in folders} == {tmp_path.resolve()}
    assert find_engine_folder(tmp_path, {**info, "cpu": "another"}, "0") not in folders


@pytest.mark.parametrize(
    ("fault", "why"),
    [
        ("no-builder", "cannot create a builder: CUDA initialization failure"),  # a driver that is too old
        ("no-runtime", "cannot start: CUDA initialization failure"),
        ("no-load", "Magic tag does not match"),
        ("build-memory", "Requested amount of GPU memory"),
        ("lost", "unspecified launch failure"),
    ],
)
def test_what_cannot_run_is_refused_and_the_others_go_on(targets, tmp_path, tensorrt_double, fault, why):
    tensorrt_double(fault)
    prepared = prepare_targets(targets, tmp_path / "engines", OPTIONS, SETTINGS)
    assert list(prepared.ready) == ["cpu"]
    assert why in prepared.refused["gpu"]
    assert "\n" not in prepared.refused["gpu"]


def test_a_gpu_that_vanishes_while_it_is_measured_ends_only_its_engines(targets, tmp_path, tensorrt_double):
    prepared = prepare_targets(targets, tmp_path / "engines", OPTIONS, SETTINGS)
    tensorrt_double("lost-later")
    calls = []

    def measure(ready):
        calls.append([t.name for t in ready])
        return measure_latency(ready, SETTINGS, memory=False)

    found, failed = measure_runnable(list(prepared.ready.values()), measure)
    assert list(found) == ["cpu"]
    assert calls == [["cpu", "gpu"], ["cpu"]]
    assert "unspecified launch failure (error 719)" in failed["gpu"]
    without = prepared.without(failed)
    assert (list(without.ready), without.refused) == (["cpu"], failed)
    with pytest.raises(FailedTargetError, match="unspecified launch failure"):
        measure_latency(list(prepared.ready.values()), SETTINGS, memory=False)


def test_an_engine_cut_in_half_is_built_again(targets, tmp_path, tensorrt_double):
    engine = Path(prepare_targets(targets, tmp_path / "engines", OPTIONS, SETTINGS).ready["gpu"].path)
    engine.write_bytes(engine.read_bytes()[: engine.stat().st_size // 2])
    again = prepare_targets(targets, tmp_path / "engines", OPTIONS, SETTINGS)
    assert (again.built, again.refused) == (("gpu",), {})


# A disk of 64 KiB, which only this process sees.
FULL_DISK = """
mount -t tmpfs -o size=64k none "$1" || { echo unmountable; exit 0; }
head -c 60000 /dev/zero > "$1/zeros"
shift; exec "$@"
"""
PREPARE = """
import sys
from pathlib import Path
from skd_bench.benchmark.engines.device_job import prepare_targets
from skd_bench.benchmark.latency import LatencyTarget, MeasurementSettings
from skd_bench.errors import EXIT_PAUSED, UserError
from skd_bench.runtimes.base import CompileOptions
try:
    target = LatencyTarget("gpu", sys.argv[1], "tensorrt")
    prepare_targets([target], Path(sys.argv[2]) / "engines", CompileOptions(), MeasurementSettings())
except UserError as error:
    print(error)
    sys.exit(error.exit_code)
"""


def test_a_full_disk_pauses_and_is_not_the_files_fault(targets, tmp_path, tensorrt_double):
    disk = tmp_path / "disk"
    disk.mkdir()
    python = [sys.executable, "-c", PREPARE, str(targets[1].path), str(disk)]
    words = ["unshare", "-rm", "bash", "-c", FULL_DISK, "bash", str(disk), *python]
    if shutil.which("unshare") is None:
        pytest.skip("this user may not mount a file system: there is no unshare")
    done = subprocess.run(words, capture_output=True, text=True, check=False)
    if "unmountable" in done.stdout or "unshare" in done.stderr:
        pytest.skip("this user may not mount a file system")
    assert done.returncode == EXIT_PAUSED, done.stderr
    assert len(done.stdout.splitlines()) == 1
    assert "No space left on device" in done.stdout
    assert "Traceback" not in done.stderr


def test_logits_are_those_of_the_engine(targets, tmp_path, tensorrt_double):
    from tensorrt import round_answer

    clips = np.random.default_rng(0).integers(0, 256, (7, 4, 16, 16, 3), np.uint8)
    np.save(tmp_path / "clips.npy", clips)
    prepared = prepare_targets(targets, tmp_path / "engines", OPTIONS, SETTINGS)
    got = {
        name: compute_target_logits(target, tmp_path / "clips.npy", PREPROCESS, SETTINGS)
        for name, target in prepared.ready.items()
    }
    assert (got["gpu"] != got["cpu"]).any()
    np.testing.assert_allclose(got["gpu"], round_answer(got["cpu"]), rtol=1e-4, atol=1e-5)
    assert (round_answer(got["gpu"]) == got["gpu"]).all()  # the engine's mark
    tensorrt_double("lost")
    with pytest.raises(UserError, match="unspecified launch failure"):
        compute_target_logits(prepared.ready["gpu"], tmp_path / "clips.npy", PREPROCESS, SETTINGS)


def test_without_bfloat16_the_files_of_openvino_are_tried_and_the_others_go_on(targets, tmp_path, monkeypatch):
    """A file that needs it would end the measurement of all. Here another one that cannot run stands for it."""
    if reason := registered_runtimes()["openvino"].why_unavailable():
        pytest.skip(f"not installed is openvino: {reason}")
    (tmp_path / "broken.onnx").write_bytes(b"no network")
    wanted = [
        targets[0],
        LatencyTarget("runs", targets[0].path, "openvino"),
        LatencyTarget("cannot", tmp_path / "broken.onnx", "openvino"),
    ]
    monkeypatch.setattr(openvino, "_has_bfloat16", lambda core: True)
    assert set(prepare_targets(wanted, tmp_path, OPTIONS, SETTINGS).ready) == {"cpu", "runs", "cannot"}  # none is tried
    monkeypatch.setattr(openvino, "_has_bfloat16", lambda core: False)
    prepared = prepare_targets(wanted, tmp_path, OPTIONS, SETTINGS)
    assert (set(prepared.ready), prepared.built) == ({"cpu", "runs"}, ())
    assert "cannot load" in prepared.refused["cannot"]
    [note] = describe_files(wanted, prepared, SETTINGS)
    assert (note.runtime, note.refused, note.logits) == ("openvino", prepared.refused["cannot"], None)
