"""What a network answers for clips without augmentation."""

from __future__ import annotations

import numpy as np
import torch

from skd_edge.data.augmentation import preprocess_batch
from skd_edge.distill import prediction
from skd_edge.distill.prediction import extract_features, predict
from skd_edge.distill.trainer import build_learner


def test_logits_and_features_are_those_of_the_whole_set_in_batches(tools, monkeypatch):
    clips, network = tools.clips().val, build_learner(tools.weak).eval()
    with torch.no_grad():
        whole = network(preprocess_batch(clips.clips, tools.preprocess))
    forward = prediction._forward_in_batches
    monkeypatch.setattr(prediction, "_forward_in_batches", lambda *args: forward(*args, batch_size=7))
    logits, features = (f(network, clips, tools.preprocess) for f in (predict, extract_features))
    assert np.allclose(logits, whole.logits, atol=1e-5)
    assert np.allclose(features, whole.features[-1].mean(1), atol=1e-5)
    assert (logits.dtype, features.dtype) == (np.float32, np.float32)


def test_a_network_without_substages_has_its_logits_as_features(tools):
    clips, network = tools.clips().val, build_learner(tools.weak).eval()
    network.register_forward_hook(lambda module, args, output: type(output)([], output.logits))
    assert np.array_equal(*(f(network, clips, tools.preprocess) for f in (predict, extract_features)))
