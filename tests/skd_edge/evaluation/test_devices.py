"""Stored sessions are used as a whole, latencies of two devices are never mixed, and errors say what to do."""

from __future__ import annotations

import io
import shutil
import zipfile
from dataclasses import replace
from pathlib import Path

import numpy as np
import onnx
import pytest

from skd_bench.benchmark.latency import LatencyResult, LatencyTarget
from skd_bench.benchmark.measurements import SCHEMA, DeviceMeasurements, FileNote, MeasuredFile
from skd_bench.device.info import device_id, read_device_info
from skd_bench.errors import EXIT_PAUSED, UserError
from skd_bench.files import sha256_file
from skd_bench.stats import Interval
from skd_edge.evaluation.devices import OfflineDevice, SshDevice, make_device
from skd_edge.evaluation.file_scorer import FileScorer
from skd_edge.recipe.sections import BenchmarkSettings

BENCH = BenchmarkSettings(processes=1, queries=20)
LATENCY = LatencyResult("a", [[1.0, 2.0]], Interval(1.5, 1, 2), None, None, 2, 0.1, 0.2, True, None)


@pytest.fixture
def target(exporter) -> LatencyTarget:
    """A real file with random weights."""
    network = exporter.build_untrained_network(exporter.recipe.students[0])
    return LatencyTarget("small", exporter.export_untrained(network, "small", ("fp32",))["fp32"])


def save_result(path, file, *, threads=1, device=None):
    """What a pack with one file writes on a device."""
    info = device or {"cpu": "A", "cores_usable": 4}
    measured = [MeasuredFile(sha256_file(file), "ort", LATENCY)]
    return DeviceMeasurements(SCHEMA, "0" * 12, info, threads, 1, 20, 1, measured).save(path)


def test_this_machine_measures_once_and_reads_the_session_afterwards(target, tmp_path):
    device = make_device(BENCH, tmp_path)
    first = device.measure([target]).latency
    assert list(first) == ["small"]
    assert first["small"].p50.value > 0
    assert device_id(device.device_info) == device_id(read_device_info())
    again = make_device(BENCH, tmp_path, cache_only=True).measure([target]).latency
    assert again["small"].samples_ms == first["small"].samples_ms


def test_without_a_stored_session_nothing_is_measured_if_only_the_cache_may_be_used(target, tmp_path):
    device = make_device(BENCH, tmp_path, cache_only=True)
    with pytest.raises(UserError, match="the run holds no measurement of all 1 files in one session on this machine"):
        device.measure([target])
    with pytest.raises(UserError, match="the run holds no joules of all 1 files"):
        make_device(BENCH, tmp_path, cache_only=True, energy=True).measure([target])


def test_each_host_has_its_own_folder_of_sessions(tmp_path):
    hosts = ("me@board-a", "me@board-b")
    devices = [make_device(BENCH.model_copy(update={"host": host}), tmp_path) for host in hosts]
    assert all(isinstance(device, SshDevice) and not device.is_local for device in devices)
    folders = {device.measurement_cache.folder for device in devices} | {
        make_device(BENCH, tmp_path).measurement_cache.folder
    }
    assert len(folders) == 3
    assert {folder.parent for folder in folders} == {tmp_path / "measurements"}


def test_results_of_a_pack_are_read_by_the_hash_of_the_file(tmp_path):
    (tmp_path / "a.onnx").write_text("a")
    (tmp_path / "same.onnx").write_text("a")
    result = save_result(tmp_path / "R.json", tmp_path / "a.onnx")
    device = OfflineDevice(BENCH, [result], tmp_path)
    found = device.measure([LatencyTarget("other name", tmp_path / "same.onnx")]).latency["other name"]
    assert (found.name, found.samples_ms) == ("other name", [[1.0, 2.0]])
    assert device.device_info == {"cpu": "A", "cores_usable": 4}


def test_a_file_without_a_result_pauses_the_run_and_is_packed(tmp_path):
    for name in ("a", "b"):
        (tmp_path / f"{name}.onnx").write_text(name)
    result = save_result(tmp_path / "R.json", tmp_path / "a.onnx")
    targets = [LatencyTarget(name, tmp_path / f"{name}.onnx") for name in ("a", "b")]
    with pytest.raises(UserError, match=r"1 of 2 files have no measurement.*Carry .*carry\.pyz") as stopped:
        OfflineDevice(BENCH, [result], tmp_path).measure(targets)
    assert stopped.value.exit_code == EXIT_PAUSED
    with zipfile.ZipFile(tmp_path / "carry.pyz") as pack:
        assert [pack.read(name) for name in pack.namelist() if name.endswith(".onnx")] == [b"b"]


def test_results_with_other_threads_than_the_recipe_are_rejected(tmp_path):
    (tmp_path / "a.onnx").write_text("a")
    result = save_result(tmp_path / "R.json", tmp_path / "a.onnx", threads=2)
    with pytest.raises(UserError, match=r"with 2 threads, but the recipe has bench\.threads: 1; change"):
        OfflineDevice(BENCH, [result], tmp_path)


def test_results_of_two_devices_are_rejected(tmp_path):
    (tmp_path / "a.onnx").write_text("a")
    results = [save_result(tmp_path / f"{cpu}.json", tmp_path / "a.onnx", device={"cpu": cpu}) for cpu in ("A", "B")]
    with pytest.raises(UserError, match="cpu: A and B"):
        OfflineDevice(BENCH, results, tmp_path)


# ------------------------------------------------------------------------------------------------ engines
ENGINES = BenchmarkSettings(
    processes=1, queries=20, runtime=("tensorrt", "ort"), seconds=0.02, warm_seconds=0.01, device="0"
)


@pytest.fixture
def engine_targets(target) -> list[LatencyTarget]:
    """One file on TensorRT and on ONNX Runtime."""
    return [LatencyTarget("gpu", target.path, "tensorrt"), LatencyTarget("cpu", target.path)]


def make_scoring_clips(scorer, clips):
    return lambda: scorer.make_scoring_clips(clips)


def is_an_engines_answer(logits) -> bool:
    from tensorrt import round_answer

    return bool((round_answer(logits) == logits).all())


def test_engines_are_compiled_measured_and_scored_here(engine_targets, tmp_path, tensorrt_double, scorer, tiny_clips):
    device = make_device(ENGINES, tmp_path)
    measured = device.measure(engine_targets)
    assert (list(measured.latency), measured.refused, measured.built) == (["gpu", "cpu"], {}, ("gpu",))
    path = Path(engine_targets[0].path)
    assert device.find_facts(path, "ort") == {}
    assert device.find_facts(path, "tensorrt")["gpu"] == "double of a GPU"
    logits = device.compute_logits(path, "tensorrt", scorer.make_scoring_clips(tiny_clips.val))
    assert is_an_engines_answer(logits)
    np.testing.assert_allclose(logits, scorer.compute_logits(path, tiny_clips.val, "ort"), rtol=1e-3, atol=1e-4)
    again = make_device(ENGINES, tmp_path, cache_only=True).measure(engine_targets)
    assert again.built == ()
    assert again.latency["gpu"].samples_ms == measured.latency["gpu"].samples_ms
    for engine in (tmp_path / "engines").glob("*/*.engine"):
        engine.write_bytes(b"changed")
    with pytest.raises(UserError, match="the run holds no engines of these files for this machine as it is now"):
        make_device(ENGINES, tmp_path, cache_only=True).measure(engine_targets)


def test_engines_without_graphs_are_other_targets(engine_targets, tmp_path, tensorrt_double):
    build = ENGINES.build.model_copy(update={"graphs": False})
    device = make_device(ENGINES.model_copy(update={"build": build}), tmp_path)
    device.measure(engine_targets[:1])
    facts = device.find_facts(Path(engine_targets[0].path), "tensorrt")
    assert (facts["runtime"], facts["cuda_graphs"]) == ("tensorrt-nograph", False)


def test_a_pack_compiles_measures_and_scores(engine_targets, tmp_path, run_there, scorer, tiny_clips):
    """One trip brings latency and logits of the validation clips; test clips need another, without measuring again."""
    val, test = (make_scoring_clips(scorer, clips) for clips in (tiny_clips.val, tiny_clips.train))
    with pytest.raises(UserError, match=r"2 of 2 files have no measurement") as stopped:
        OfflineDevice(ENGINES, [], tmp_path).measure(engine_targets, clips=val)
    assert stopped.value.exit_code == EXIT_PAUSED
    run_there((tmp_path / "carry.pyz").read_bytes(), "first")
    results = [tmp_path / "there" / "first.json"]
    device = OfflineDevice(ENGINES, results, tmp_path)
    measured = device.measure(engine_targets, clips=val)
    assert list(measured.latency) == ["gpu", "cpu"]
    path = Path(engine_targets[0].path)
    logits = device.compute_logits(path, "tensorrt", val())
    assert is_an_engines_answer(logits)
    assert logits.shape == (len(tiny_clips.val), len(tiny_clips.classes))
    with pytest.raises(UserError, match="1 files on a GPU have no logits from the device for these clips"):
        device.compute_logits(path, "tensorrt", test())
    second = run_there((tmp_path / "carry.pyz").read_bytes(), "second")
    assert second.measured == []
    facts = device.find_facts(path, "tensorrt")
    assert second.notes[0].facts["engine_sha256"] == facts["engine_sha256"]  # the engine was not built again
    device = OfflineDevice(ENGINES, [*results, tmp_path / "there" / "second.json"], tmp_path)
    assert len(device.compute_logits(path, "tensorrt", test())) == len(tiny_clips.train)


def test_results_of_other_engines_than_the_recipes_are_rejected(engine_targets, tmp_path, run_there):
    """Of other build options or of another GPU; a result without engines is of any."""
    with pytest.raises(UserError, match="have no measurement"):
        OfflineDevice(ENGINES, [], tmp_path).measure(engine_targets)
    run_there((tmp_path / "carry.pyz").read_bytes())
    results = [tmp_path / "there" / "R.json"]
    tf32 = ENGINES.model_copy(update={"build": ENGINES.build.model_copy(update={"tf32": True})})
    with pytest.raises(UserError, match=r"R\.json has engines that were compiled with other options .*bench\.build"):
        OfflineDevice(tf32, results, tmp_path)
    with pytest.raises(UserError, match=r"R\.json was measured on the GPU '0', but the recipe has bench\.device: 1"):
        OfflineDevice(ENGINES.model_copy(update={"device": "1"}), results, tmp_path)
    twice = ENGINES.model_copy(update={"build": ENGINES.build.model_copy(update={"builds": 2})})
    with pytest.raises(UserError, match=r"bench\.build"):
        OfflineDevice(twice, results, tmp_path)
    OfflineDevice(ENGINES, results, tmp_path)
    OfflineDevice(tf32, [save_result(tmp_path / "cpu.json", engine_targets[0].path)], tmp_path)


def test_over_ssh_engines_of_other_options_are_measured_again(engine_targets, tmp_path, packs_over_ssh):
    tf32 = ENGINES.build.model_copy(update={"tf32": True})
    bench = ENGINES.model_copy(update={"host": "me@board"})
    make_device(bench, tmp_path).measure(engine_targets)
    other = make_device(bench.model_copy(update={"build": tf32}), tmp_path)
    other.measure(engine_targets)
    assert len(packs_over_ssh) == 2
    other.measure(engine_targets[1:])  # on the CPU the options are nothing
    assert len(packs_over_ssh) == 2
    twice = make_device(bench.model_copy(update={"build": tf32.model_copy(update={"builds": 2})}), tmp_path)
    twice.measure(engine_targets)
    assert len(packs_over_ssh) == 3
    assert len(twice.find_facts(Path(engine_targets[0].path), "tensorrt")["builds"]) == 2


def test_over_ssh_clips_travel_once_and_a_refusal_is_stored(
    engine_targets, tmp_path, packs_over_ssh, scorer, tiny_clips, tensorrt_double
):
    bench = ENGINES.model_copy(update={"host": "me@board"})
    val = make_scoring_clips(scorer, tiny_clips.val)
    device, path = make_device(bench, tmp_path), Path(engine_targets[0].path)
    measured = device.measure(engine_targets, clips=val)
    assert (list(measured.latency), measured.built) == (["gpu", "cpu"], ("gpu",))
    assert make_device(bench, tmp_path).measure(engine_targets).built == ()  # stored
    assert is_an_engines_answer(device.compute_logits(path, "tensorrt", val()))
    assert len(packs_over_ssh) == 1
    with zipfile.ZipFile(io.BytesIO(packs_over_ssh[0])) as pack:
        assert [n for n in pack.namelist() if n.endswith(".npy")] == ["parcel/files/clips.npy"]

    tensorrt_double("build-memory")
    shutil.rmtree(tmp_path / "there" / "cache")
    fewer = bench.model_copy(update={"queries": 21})
    refused = make_device(fewer, tmp_path).measure(engine_targets)
    assert list(refused.latency) == ["cpu"]
    assert "Requested amount of GPU memory" in refused.refused["gpu"]
    stored = make_device(fewer, tmp_path, cache_only=True).measure(engine_targets)
    assert (list(stored.latency), stored.refused) == (["cpu"], refused.refused)
    with pytest.raises(UserError, match=r"cannot be scored on me@board: .*Requested amount"):
        make_device(bench, tmp_path).compute_logits(path, "tensorrt", val())
    tensorrt_double()  # there is memory again: what was refused is tried again
    assert list(make_device(fewer, tmp_path).measure(engine_targets).latency) == ["gpu", "cpu"]


def test_a_file_that_fails_only_while_it_is_scored_is_refused(
    exporter, tmp_path, packs_over_ssh, scorer, tiny_clips, tensorrt_double
):
    """Logits in half precision overflow: the engine is built and timed, and the others go on, here and over ssh."""
    network = exporter.build_untrained_network(exporter.recipe.students[0])
    files = exporter.export_untrained(network, "small", ("fp32", "fp16"))
    targets = [LatencyTarget(name, path, "tensorrt") for name, path in files.items()]
    tensorrt_double("overflow")
    there = make_device(ENGINES.model_copy(update={"host": "me@board"}), tmp_path)
    measured = there.measure(targets, clips=make_scoring_clips(scorer, tiny_clips.val))
    assert list(measured.latency) == ["fp32"]
    assert "contains NaN or infinity" in measured.refused["fp16"]
    on_gpu = [(path, "tensorrt") for path in files.values()]
    for device in (there, make_device(ENGINES, tmp_path)):
        own = FileScorer(scorer.recipe, scorer.classes, tmp_path / device.name, device)
        [(refused, reason)] = own.score_ahead(on_gpu, tiny_clips.val).items()
        assert refused == (files["fp16"], "tensorrt")
        assert "contains NaN or infinity" in reason
        assert is_an_engines_answer(own.compute_logits(files["fp32"], tiny_clips.val, "tensorrt"))


def test_stored_logits_are_not_computed_on_the_host_again(engine_targets, tmp_path, packs_over_ssh, scorer, tiny_clips):
    """Those of a measured file and those of a file to compare with, which was never measured there."""
    bench = ENGINES.model_copy(update={"host": "me@board"})
    measured, other = Path(engine_targets[0].path), tmp_path / "other.onnx"
    model = onnx.load(measured)
    model.doc_string = "another file"
    onnx.save(model, other)
    for sent in (2, 2):
        device = make_device(bench, tmp_path)
        device.measure(engine_targets)
        own = FileScorer(scorer.recipe, scorer.classes, tmp_path / "artefacts", device)
        assert own.score_ahead([(path, "tensorrt") for path in (measured, other)], tiny_clips.val) == {}
        for path in (measured, other):
            assert is_an_engines_answer(own.compute_logits(path, tiny_clips.val, "tensorrt"))
        assert len(packs_over_ssh) == sent  # one measures, one scores both
    tf32 = bench.model_copy(update={"build": bench.build.model_copy(update={"tf32": True})})
    device = make_device(tf32, tmp_path)
    device.measure(engine_targets)
    own = FileScorer(scorer.recipe, scorer.classes, tmp_path / "artefacts", device)
    own.score_ahead([(other, "tensorrt")], tiny_clips.val)
    assert len(packs_over_ssh) == 4  # engines of other options have other logits


@pytest.mark.parametrize("host", [None, "me@board"])
def test_a_gpu_that_vanishes_while_it_is_measured_leaves_the_others(
    engine_targets, tmp_path, packs_over_ssh, tensorrt_double, host
):
    bench = ENGINES.model_copy(update={"host": host})
    tensorrt_double("lost-later")
    measured = make_device(bench, tmp_path).measure(engine_targets)
    assert list(measured.latency) == ["cpu"]
    assert "unspecified launch failure (error 719)" in measured.refused["gpu"]
    tensorrt_double()
    assert list(make_device(bench, tmp_path).measure(engine_targets).latency) == ["gpu", "cpu"]


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"queries": 7}, "the result from me@board: it was measured with 'queries' '7' instead of '20'"),
        ({"threads": 4}, "the result from me@board: it was measured with 'threads' '4' instead of '1'"),
        ({"build": "00"}, "the result from me@board: it was measured with 'build' '00' instead of '"),
        ({"device": {}}, "the result from me@board: 'device.cpu' is not the name of a processor"),
        ({"notes": [FileNote("a" * 64, "tensorrt", facts={"layers": [1]})]}, r"the result from me@board: 'notes\[0\]'"),
        (
            {"notes": [FileNote("a" * 64, "tensorrt", facts={"builds": [{"engine_sha256": "a" * 64, "p50_ms": 0}]})]},
            r"'notes\[0\]' has builds that are not",
        ),
    ],
)
def test_what_a_host_reports_is_checked(tmp_path, monkeypatch, scorer, tiny_clips, change, words):
    """Both where it measures and where it scores only."""
    file = tmp_path / "a.onnx"
    file.write_bytes(b"a file")
    saved = save_result(tmp_path / "R.json", file)
    answer = replace(DeviceMeasurements.load(saved), **change)
    monkeypatch.setattr("skd_bench.remote.runner.run_pack", lambda pack, ssh, progress=None: answer)
    device = make_device(BENCH.model_copy(update={"host": "me@board"}), tmp_path)
    with pytest.raises(UserError, match=words):
        device.measure([LatencyTarget("a", file)])
    with pytest.raises(UserError, match=words):
        device.compute_logits(file, "ort", scorer.make_scoring_clips(tiny_clips.val))
    with pytest.raises(UserError, match="the run holds no measurement"):  # nothing of it is stored
        make_device(device.bench, tmp_path, cache_only=True).measure([LatencyTarget("a", file)])


def test_a_host_that_sends_no_logits_is_reported(tmp_path, monkeypatch, scorer, tiny_clips):
    file = tmp_path / "a.onnx"
    file.write_bytes(b"a file")
    answer = DeviceMeasurements.load(save_result(tmp_path / "R.json", file))
    monkeypatch.setattr("skd_bench.remote.runner.run_pack", lambda pack, ssh, progress=None: answer)
    device = make_device(BENCH.model_copy(update={"host": "me@board"}), tmp_path)
    with pytest.raises(UserError, match=r"me@board sent no logits of a\.onnx on tensorrt; measure again"):
        device.compute_logits(file, "tensorrt", scorer.make_scoring_clips(tiny_clips.val))
