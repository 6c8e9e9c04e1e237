"""What a network answers for clips without augmentation, which is how devices process them."""

from __future__ import annotations

from collections.abc import Callable

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from skd_bench.video.types import Preprocessing
from skd_edge.data.augmentation import preprocess_batch
from skd_edge.data.store.clip_store import ClipSplit
from skd_edge.models.builder import AnyNetwork
from skd_edge.models.substages import SubstageOutput


def predict(network: AnyNetwork, clips: ClipSplit, preprocess: Preprocessing) -> NDArray[np.float32]:
    """Logits ``(N, C)`` of the clips without augmentation, which is how devices process them."""

    def select_logits(output: SubstageOutput) -> Tensor:
        assert output.logits is not None
        return output.logits

    return _forward_in_batches(network, clips, preprocess, select_logits)


def extract_features(network: AnyNetwork, clips: ClipSplit, preprocess: Preprocessing) -> NDArray[np.float32]:
    """Features ``(N, C_K)`` of the last substage, mean over frames, without augmentation; logits if there are none."""

    def select_features(output: SubstageOutput) -> Tensor:
        if output.features:
            return output.features[-1].mean(1)
        assert output.logits is not None
        return output.logits

    return _forward_in_batches(network, clips, preprocess, select_features)


@torch.no_grad()
def _forward_in_batches(
    network: AnyNetwork,
    clips: ClipSplit,
    preprocess: Preprocessing,
    select_output: Callable[[SubstageOutput], Tensor],
    batch_size: int = 128,
) -> NDArray[np.float32]:
    device = next(network.parameters(), torch.zeros(())).device  # an ONNX network has no parameters
    outputs = [
        select_output(network(preprocess_batch(clips.clips[i : i + batch_size], preprocess).to(device))).float().cpu()
        for i in range(0, len(clips), batch_size)
    ]
    return np.asarray(torch.cat(outputs).numpy())
