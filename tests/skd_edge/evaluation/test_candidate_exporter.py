"""Networks are exported with random weights before there are clips, and with trained weights afterwards."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import onnx
import pytest
import torch

from skd_edge.evaluation.candidate_exporter import CalibrationClips, CandidateExporter, TrainedExporter
from skd_edge.evaluation.file_scorer import FileScorer
from skd_edge.models.builder import build_network
from skd_export.exporter import read_metadata


def test_an_untrained_network_is_exported_without_clips(exporter):
    network = exporter.build_untrained_network(exporter.recipe.students[0])
    assert not network.training
    files = exporter.export_untrained(network, "small", ("fp32", "int8"))
    assert list(files) == ["fp32", "int8"]
    assert all(file.parent == exporter.folder / "small" and file.is_file() for file in files.values())
    assert read_metadata(files["int8"])["tried"] == []  # no bound applies to random weights


def test_untrained_networks_of_one_recipe_have_equal_weights(exporter):
    first, second = (exporter.build_untrained_network(exporter.recipe.students[0]) for _ in range(2))
    for (name, a), (_, b) in zip(first.state_dict().items(), second.state_dict().items(), strict=True):
        assert (a == b).all(), name


def test_a_cascade_path_is_a_valid_folder_name(exporter):
    network = exporter.build_untrained_network(exporter.recipe.students[0])
    file = exporter.export_untrained(network, "teacher>small", ("fp32",))["fp32"]
    assert file.parent.name == "teacher+small"


def test_files_take_uint8_frames_if_the_contract_is_frames(make_recipe, tiny_clips, tmp_path):
    recipe = make_recipe(export={"contract": "frames"})
    exporter = CandidateExporter(recipe, tiny_clips.classes, tmp_path)
    network = exporter.build_untrained_network(recipe.students[0])
    file = exporter.export_untrained(network, "small", ("fp32",))["fp32"]
    assert onnx.load(file).graph.input[0].type.tensor_type.elem_type == onnx.TensorProto.UINT8


def test_int8_weights_have_7_bits_if_8_bits_saturate_on_the_device(exporter, tiny_clips, tmp_path):
    saturating = CandidateExporter(exporter.recipe, tiny_clips.classes, tmp_path, int8_saturates=lambda: True)
    network = exporter.build_untrained_network(exporter.recipe.students[0])
    file = saturating.export_untrained(network, "small", ("int8",))["int8"]
    assert read_metadata(file)["reduce_range"] is True


def test_traced_graphs_are_found_by_the_export(make_recipe, tiny_clips, tmp_path, own_places):
    students = [{"name": name, "width": 6, "depths": [1, 1], "temporal": name} for name in ("conv", "shift")]
    recipe = make_recipe(students=students)
    # Other networks than those of other tests, whose graphs this process may know already.
    exporter = CandidateExporter(recipe, tiny_clips.classes, tmp_path)
    networks = [exporter.build_untrained_network(s) for s in recipe.students]
    exporter.trace_ahead(networks)
    traced = {f: f.stat().st_mtime_ns for f in (own_places / "graphs").iterdir()}
    for network, student in zip(networks, recipe.students, strict=True):
        exporter.export_untrained(network, student.name, ("fp32",))
    assert len(traced) >= 2
    assert {f: f.stat().st_mtime_ns for f in (own_places / "graphs").iterdir()} == traced  # nothing was traced again


# ---------------------------------------------------------------------------------------------- calibration clips
def test_calibration_clips_are_drawn_from_the_training_clips_by_the_seed(recipe, training_data):
    clips = CalibrationClips(recipe, training_data)
    assert clips.count == len(set(clips.rows)) == 20
    assert list(clips.rows) == sorted(clips.rows)
    assert clips.rows.min() >= 0
    assert clips.rows.max() < len(training_data.clips.train)
    assert (clips.rows == CalibrationClips(recipe, training_data).rows).all()
    assert list(clips.rows) != list(CalibrationClips(recipe.model_copy(update={"seed": 9}), training_data).rows)


def test_there_are_at_most_as_many_calibration_clips_as_training_clips(make_recipe, training_data):
    clips = CalibrationClips(make_recipe(export={"calibration_clips": 1000}), training_data)
    assert clips.count == len(training_data.clips.train)
    assert list(clips.rows) == list(range(48))


def test_calibration_batches_are_normalised_network_inputs(exporter, recipe, training_data, scorer):
    clips = CalibrationClips(recipe, training_data)
    batches = list(clips.iter_batches(scorer.preprocess))
    assert [b.shape for b in batches] == [(16, 3, 4, 16, 16), (4, 3, 4, 16, 16)]
    every = np.concatenate(list(scorer.iter_network_inputs(training_data.clips.train)))
    np.testing.assert_allclose(np.concatenate(batches), every[clips.rows], atol=1e-6)


@pytest.mark.parametrize("change", [{"calibration_clips": 12}, {"int8_drop": 2.0}, {"int8_agreement": 0.5}])
def test_the_key_depends_on_number_and_bounds(make_recipe, recipe, training_data, change):
    assert (
        CalibrationClips(make_recipe(export=change), training_data).key != CalibrationClips(recipe, training_data).key
    )


def test_calibration_clips_of_one_class_are_reported(recipe, training_data):
    assert CalibrationClips(recipe, training_data).single_class_warning() is None
    only_blink = CalibrationClips(recipe, replace(training_data, weak_labels=np.full(48, 3)))
    assert "all 20 calibration clips are of class 'blink'" in only_blink.single_class_warning()
    unlabelled = CalibrationClips(recipe, replace(training_data, weak_labels=np.full(48, -1)))
    assert unlabelled.single_class_warning() is None


# ---------------------------------------------------------------------------------------------- trained networks
def test_a_trained_network_is_exported_with_its_own_logits(
    exporter, scorer, recipe, training_data, network, compute_network_logits
):
    trained = TrainedExporter(exporter, scorer, CalibrationClips(recipe, training_data))
    files = trained.export(network, "job", ("fp32", "int8"))
    assert {f.parent for f in files.values()} == {exporter.folder / "job"}
    val = training_data.clips.val
    logits = scorer.compute_logits(files["fp32"], val, "ort")
    np.testing.assert_allclose(logits, compute_network_logits(network, val), atol=1e-3)
    assert read_metadata(files["int8"])["tried"] == []


def test_int8_is_compared_with_the_reference_network(make_recipe, training_data, network, tmp_path):
    """The network always answers with class 0, the reference with class 1, which is the label of all clips."""
    recipe, classes = make_recipe(export={"int8_agreement": 1.0, "int8_drop": 0.0}), training_data.clips.classes
    reference = build_network(recipe.students[0], classes=len(classes), clip=recipe.clip, seed=4).eval()
    for answer, net in enumerate((network, reference)):
        net.head.weight.data.zero_()
        net.head.bias.data[:] = 5.0 * torch.eye(4)[answer]
    val = replace(training_data.clips.val, labels=np.ones(20, np.int64))
    data = replace(training_data, clips=replace(training_data.clips, val=val))
    exporter, scorer = CandidateExporter(recipe, classes, tmp_path), FileScorer(recipe, classes, tmp_path)
    trained = TrainedExporter(exporter, scorer, CalibrationClips(recipe, data))
    assert read_metadata(trained.export(network, "itself", ("int8",))["int8"])["tried"] == []
    tried = read_metadata(trained.export(network, "other", ("int8",), reference)["int8"])["tried"]
    assert tried
    assert all("agree" in reason for reason in tried)
