"""Files of one network: calibrated and compared on different clips, and rejected where they differ from it."""

from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
import torch

from skd_bench.errors import UserError
from skd_edge.data.sources.synthetic import render_clip
from skd_edge.models.substages import LogitsOnly
from skd_edge.models.tsm import build_tsm
from skd_edge.pipeline.export_model.export_report import ModelExport
from skd_edge.pipeline.export_model.request import ExportRequest
from skd_edge.pipeline.export_model.sources import DecodedVideos
from skd_edge.recipe.schema import NetworkSpec
from skd_edge.recipe.sections import ClipSettings

SPEC = NetworkSpec(name="n", width=4, depths=(1, 1))
CLIP = ClipSettings(frames=4, size=16)
CLASSES = ["move_left", "orbit", "shrink"]


def make_videos(count: int = 12, errors: tuple[str, ...] = ()) -> DecodedVideos:
    labels = np.arange(count) % 3
    clips = [render_clip(CLASSES[i], frames=4, size=16, difficulty=0.1, seed=k) for k, i in enumerate(labels)]
    return DecodedVideos(np.stack(clips), labels, tuple(CLASSES), errors)


def make_export(folder, videos, *, labelled=True, **options) -> ModelExport:
    network = LogitsOnly(build_tsm(SPEC, classes=3, frames=4, size=16, seed=0)).eval()
    request = ExportRequest("x.pt", SPEC, CLIP, "mine", **options)
    labels = videos.labels if videos and labelled else None
    return ModelExport(request, network, CLASSES, labels, videos, folder)


@pytest.mark.parametrize(("wanted", "calibrated"), [(4, 4), (100, 6)])
def test_no_clip_is_both_calibrated_on_and_compared(tmp_path, wanted, calibrated):
    export = make_export(tmp_path, videos := make_videos(), precisions=("fp32", "int8"), calibration=wanted)
    assert len(export.calibration_clips) == calibrated
    assert np.array_equal(np.concatenate([export.calibration_clips, export.comparison_clips]), videos.clips)
    assert np.array_equal(export.labels, videos.labels[calibrated:])


def test_without_int8_every_clip_is_compared(tmp_path):
    export = make_export(tmp_path, make_videos())
    assert (len(export.calibration_clips), len(export.comparison_clips)) == (0, 12)


def test_without_clips_files_are_written_and_not_compared(tmp_path):
    stages = []
    models, files = make_export(tmp_path, None).export_and_compare(stages.append)
    assert [(file.precision, file.parity, file.rejection_reason) for file in files] == [("fp32", None, None)]
    assert models[0].measured == {}
    assert files[0].bytes == (tmp_path / "fp32.onnx").stat().st_size
    assert stages[0] == "writing fp32"


def test_an_fp32_file_agrees_with_its_network(tmp_path):
    models, (file,) = make_export(tmp_path, make_videos()).export_and_compare(lambda text: None)
    assert (file.parity["n"], file.parity["agreement"]) == (12, 1.0)
    low, high = models[0].measured["interval"]
    assert low <= models[0].measured["accuracy"] <= high
    assert "flips" not in models[0].parity


def test_an_fp32_file_of_another_network_is_an_error(tmp_path):
    export = make_export(tmp_path, make_videos())
    verifier = export._make_verifier()
    files = export._export_files(verifier, lambda text: None)
    with torch.no_grad():
        for parameter in export.network.parameters():
            parameter.mul_(-3)
    other = export._make_verifier()
    (_, precision, path) = files[0]
    file, _ = export._compare_file(other, "ort", precision, path)
    assert file.rejection_reason
    export._export_files = lambda verifier, on_stage: files
    with pytest.raises(UserError, match="nothing is exported"):
        export.export_and_compare(lambda text: None)


@pytest.mark.parametrize(
    ("videos", "options", "note"),
    [
        (None, {}, "nothing was compared: no real clips were given"),
        (make_videos(12, ("a.mp4: text",)), {}, "1 videos could not be read, the first: a.mp4: text"),
        (replace(make_videos(), left_out="left out: 2 .jpg (a)"), {}, "left out: 2 .jpg (a)"),
        (make_videos(), {}, "12 clips were compared; 200 are needed"),
        (make_videos(), {"labelled": False}, "the accuracy is not known"),
        (make_videos(), {"precisions": ("int8",), "calibration": 1}, "calibrated on clips of one class only"),
    ],
)
def test_notes_say_what_the_comparison_does_not_show(tmp_path, videos, options, note):
    assert any(note in one for one in make_export(tmp_path, videos, **options).notes)


def test_logits_that_are_the_same_for_every_clip_prove_nothing(tmp_path):
    export = make_export(tmp_path, make_videos())
    with torch.no_grad():
        for parameter in export.network.parameters():
            parameter.mul_(0)
        list(export.network.parameters())[-1].add_(torch.tensor([1.0, 2.0, 3.0]))
    export.export_and_compare(lambda text: None)
    assert any("so the comparison proves nothing" in note for note in export.notes)
