"""A small network with the operators that skd-edge uses and realistic weights, and clips of moving blobs."""

from __future__ import annotations

import copy
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import Tensor, nn

from skd_export.graph.onnx_export import export_onnx

FRAMES, SIZE, CLASSES = 4, 16, ["left", "right", "up", "down", "still"]


class Shift(nn.Module):
    """Slices and concatenations, like an exported temporal shift."""

    def __init__(self, frames: int) -> None:
        super().__init__()
        self.frames = frames

    def forward(self, x: Tensor) -> Tensor:
        c, h, w = x.shape[1:]
        x = x.reshape(-1, self.frames, c, h, w)
        ahead, rest = x[:, :, :2], x[:, :, 2:]
        return torch.cat((torch.cat((ahead[:, 1:], ahead[:, -1:]), 1), rest), 2).reshape(-1, c, h, w)


class TemporalConv(nn.Module):
    """A convolution over time, as Conv2d (3, 1) on (B, C, T, H*W)."""

    def __init__(self, channels: int, frames: int) -> None:
        super().__init__()
        self.frames = frames
        self.conv = nn.Conv2d(channels, channels, (3, 1), padding=(1, 0), groups=channels, bias=False)
        self.norm = nn.BatchNorm2d(channels)

    def forward(self, x: Tensor) -> Tensor:
        c, h, w = x.shape[1:]
        x = x.reshape(-1, self.frames, c, h * w).transpose(1, 2)
        x = torch.nn.functional.relu6(self.norm(self.conv(x)))
        return x.transpose(1, 2).reshape(-1, c, h, w)


class Small(nn.Module):
    """Four convolutions (one over time), a shift, batch norms, ReLU and ReLU6, a linear head."""

    def __init__(self, frames: int = FRAMES, classes: int = len(CLASSES)) -> None:
        super().__init__()
        self.frames = frames
        self.stem = nn.Sequential(nn.Conv2d(3, 8, 3, 2, 1, bias=False), nn.BatchNorm2d(8), nn.ReLU())
        self.shift, self.time = Shift(frames), TemporalConv(8, frames)
        self.wide = nn.Sequential(nn.Conv2d(8, 16, 1, bias=False), nn.BatchNorm2d(16), nn.ReLU6())
        self.narrow = nn.Sequential(nn.Conv2d(16, 8, 3, 1, 1, bias=False), nn.BatchNorm2d(8))
        self.head = nn.Linear(8, classes)

    def forward(self, clip: Tensor) -> Tensor:
        c, h, w = clip.shape[1], clip.shape[3], clip.shape[4]
        x = self.stem(clip.transpose(1, 2).reshape(-1, c, h, w))
        x = x + self.narrow(self.wide(self.time(self.shift(x))))
        logits: Tensor = self.head(x.mean((2, 3)).reshape(-1, self.frames, x.shape[1]).mean(1))
        return logits


def make_clips(n: int, seed: int) -> np.ndarray:
    """Clips of moving blobs, float32 (n, 3, T, H, W), around zero."""
    g = np.random.default_rng(seed)
    start, step = g.uniform(4, 12, (n, 2, 1)), g.uniform(-2, 2, (n, 2, 1))
    path = start + step * np.arange(FRAMES)
    y, x = np.mgrid[:SIZE, :SIZE]
    blob = np.exp(-((x - path[:, 0, :, None, None]) ** 2 + (y - path[:, 1, :, None, None]) ** 2) / g.uniform(2, 20))
    colour = g.uniform(-2, 2, (n, 3, 1, 1, 1))
    return (colour * blob[:, None] + g.normal(0, 0.1, (n, 3, FRAMES, SIZE, SIZE))).astype(np.float32)


def make_network(seed: int = 0) -> Small:
    """A network with batch norms calibrated on clips, and a head whose logits differ between clips."""
    torch.manual_seed(seed)
    network = Small()
    with torch.no_grad():
        for module in network.modules():
            if isinstance(module, nn.BatchNorm2d):
                module.momentum = None  # a plain average: one batch is enough
        network(torch.from_numpy(make_clips(64, 0)))
        network.head.weight.mul_(20)
        network.eval()
        network.head.bias.sub_(network(torch.from_numpy(make_clips(64, 99))).mean(0))
    return network


@pytest.fixture(scope="session")
def _trained() -> Small:
    torch.set_num_threads(1)  # the networks are tiny: a second thread makes nothing faster
    return make_network()


@pytest.fixture
def network(_trained: Small) -> Small:
    """A copy of the network for one test, in eval mode."""
    return copy.deepcopy(_trained)


@pytest.fixture(scope="session")
def clips() -> Callable[[int, int], np.ndarray]:
    return make_clips


@pytest.fixture
def batches() -> Callable[[], Iterator[np.ndarray]]:
    """Returns 48 calibration clips in three batches; each call returns a new iterator."""
    return lambda: (make_clips(16, seed) for seed in (1, 2, 3))


@pytest.fixture(scope="session")
def fp32(_trained: Small, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The network as an FP32 file."""
    path = tmp_path_factory.mktemp("fp32") / "small.onnx"
    export_onnx(_trained, path, clip_shape=(FRAMES, SIZE, SIZE), classes=CLASSES)
    return path
