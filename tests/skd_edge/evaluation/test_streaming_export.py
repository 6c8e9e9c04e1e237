"""A per-frame file has the logits of its network on every frame, whatever input it takes."""

from __future__ import annotations

import re

import numpy as np
import pytest
import torch

from skd_bench.errors import UserError
from skd_bench.inference.frame_stream import FrameClassifier
from skd_edge.evaluation import streaming_export
from skd_edge.evaluation.file_scorer import FileScorer
from skd_edge.evaluation.streaming_export import write_stream
from skd_edge.models.builder import build_network
from skd_edge.models.tsm import TSM


def build(recipe, seed=3) -> TSM:
    return build_network(recipe.students[0], classes=4, clip=recipe.clip, seed=seed).eval()


@pytest.fixture(scope="module", params=["clip", "frames"])
def exported(request, make_recipe, tiny_clips, tmp_path_factory):
    """A causal network and its per-frame file, for each input contract; and the scorer that compared them."""
    folder = tmp_path_factory.mktemp("stream")
    temporal = {"clip": "conv", "frames": "shift"}[request.param]
    recipe = make_recipe({"causal": True, "temporal": temporal}, export={"contract": request.param})
    scorer, network = FileScorer(recipe, tiny_clips.classes, folder), build(recipe)
    return network, write_stream(scorer, network, folder / "frame.stream", tiny_clips.val), scorer


def test_a_file_agrees_with_its_network_on_every_frame(exported):
    _, stream, scorer = exported
    assert stream.frames == stream.model.parity["frames"] == 20 * 4
    assert stream.model.parity["clips"] == 20
    assert stream.model.parity["relative"] < 1e-4
    assert stream.model.parity["agreement"] > 0.99
    expected = "uint8" if scorer.recipe.export.contract == "frames" else "float32"
    assert FrameClassifier(scorer.folder / "frame.stream").dtype == expected


def test_the_text_has_latency_state_and_difference(exported):
    text, model = exported[1].to_text(), exported[1].model
    assert re.search(r"\d+\.\d\d ms per frame \(median of 80, ", text)
    assert f"{4 * model.state / 1000:.1f} kB of state" in text
    assert f"at most {model.parity['relative']:.1e} of the largest logit" in text


def test_each_clip_starts_a_new_stream(exported, tiny_clips):
    """The last clip alone has the logits that its network computes for it, although other clips came before."""
    network, _, scorer = exported
    classifier = FrameClassifier(scorer.folder / "frame.stream")
    inputs = np.concatenate(list(scorer.iter_network_inputs(tiny_clips.val)))[-1:]
    if classifier.dtype == "uint8":
        frames = [np.ascontiguousarray(tiny_clips.val.clips[-1:, t]) for t in range(4)]
    else:
        frames = [np.ascontiguousarray(inputs[:, :, t]) for t in range(4)]
    with torch.no_grad():
        expected = network.head(network(torch.from_numpy(inputs)).features[-1])[0].numpy()
    for _ in range(2):
        classifier.reset_state()
        logits = np.stack([classifier.step(frame)[0] for frame in frames])
        np.testing.assert_allclose(logits, expected, atol=1e-3)


def test_a_file_with_other_weights_is_an_error(make_recipe, tiny_clips, tmp_path, monkeypatch):
    """The file is a real one, but of another network: what a defect of the export would write."""
    recipe = make_recipe({"causal": True, "temporal": "shift"})
    scorer, other = FileScorer(recipe, tiny_clips.classes, tmp_path), build(recipe, seed=4)
    real = streaming_export.StreamingNetwork
    monkeypatch.setattr(streaming_export, "StreamingNetwork", lambda network: real(other))
    with pytest.raises(UserError, match=r"the logits of the per-frame file differ .* student's `causal: false`"):
        write_stream(scorer, build(recipe), tmp_path / "frame.stream", tiny_clips.val)


def test_a_network_that_uses_later_frames_is_an_error(make_recipe, tiny_clips, tmp_path):
    recipe = make_recipe({"temporal": "shift"})
    scorer = FileScorer(recipe, tiny_clips.classes, tmp_path)
    with pytest.raises(ValueError, match="only a causal network"):
        write_stream(scorer, build(recipe), tmp_path / "frame.stream", tiny_clips.val)
