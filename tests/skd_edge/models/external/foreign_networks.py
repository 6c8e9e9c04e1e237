"""Networks as other libraries write them, for ``teacher.factory``: ``foreign_networks:per_frame`` and others."""

from __future__ import annotations

from types import SimpleNamespace
from typing import Any

import torch
from torch import Tensor, nn


class PerFrame(nn.Module):
    """A 2-D network without time: ``(B*T, 3, H, W)`` in, logits for each frame out; its ReLUs work in place."""

    def __init__(self, classes: int, width: int = 6) -> None:
        super().__init__()
        self.stem = nn.Sequential(nn.Conv2d(3, width, 3, 2, 1), nn.BatchNorm2d(width), nn.ReLU(inplace=True))
        self.layer1 = nn.Sequential(nn.Conv2d(width, width + 1, 3, 1, 1), nn.BatchNorm2d(width + 1))
        self.act = nn.ReLU(inplace=True)  # changes the output of layer1
        self.layer2 = nn.Sequential(nn.Conv2d(width + 1, 2 * width, 3, 2, 1), nn.ReLU(inplace=True))
        self.fc = nn.Linear(2 * width, classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.layer2(self.act(self.layer1(self.stem(x)))).mean((2, 3)))
        return out


class Cubes(nn.Module):
    """A 3-D network: ``(B, 3, T, H, W)`` in; its second layer halves the number of frames."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.layers = nn.ModuleList(
            [
                nn.Sequential(nn.Conv3d(3, 8, 3, (1, 2, 2), 1), nn.BatchNorm3d(8), nn.ReLU()),
                nn.Sequential(nn.Conv3d(8, 12, 3, 2, 1), nn.BatchNorm3d(12), nn.ReLU()),
            ]
        )
        self.fc = nn.Linear(12, classes)

    def forward(self, x: Tensor) -> Tensor:
        for layer in self.layers:
            x = layer(x)
        out: Tensor = self.fc(x.mean((2, 3, 4)))
        return out


class Block(nn.Module):
    """A transformer block that returns a tuple, as in large libraries."""

    def __init__(self, width: int) -> None:
        super().__init__()
        self.norm, self.attend = nn.LayerNorm(width), nn.MultiheadAttention(width, 2, batch_first=True)
        self.mlp = nn.Sequential(
            nn.LayerNorm(width), nn.Linear(width, 2 * width), nn.GELU(), nn.Linear(2 * width, width)
        )

    def forward(self, x: Tensor) -> tuple[Tensor, None]:
        y = self.norm(x)
        x = x + self.attend(y, y, y, need_weights=False)[0]
        return x + self.mlp(x), None


class Tokens(nn.Module):
    """A video transformer: ``(B, T, 3, H, W)`` in, tokens of 2 frames x 8 x 8 pixels, an output object with logits."""

    def __init__(self, classes: int, frames: int, size: int, width: int = 10) -> None:
        super().__init__()
        self.embed = nn.Conv3d(3, width, (2, 8, 8), (2, 8, 8))
        self.token = nn.Parameter(torch.randn(1, 1, width))
        self.place = nn.Parameter(torch.randn(1, 1 + frames // 2 * (size // 8) ** 2, width) * 0.1)
        self.blocks = nn.ModuleList([Block(width), Block(width)])
        self.head = nn.Linear(width, classes)

    def forward(self, pixels: Tensor) -> Any:
        x = self.embed(pixels.transpose(1, 2)).flatten(2).transpose(1, 2)
        x = torch.cat((self.token.expand(x.shape[0], -1, -1), x), 1) + self.place
        for block in self.blocks:
            x = block(x)[0]
        return SimpleNamespace(loss=None, logits=self.head(x[:, 0]), hidden=x)


class Tied(nn.Module):
    """A network with a shared weight, dropout, a module that runs twice and a module that never runs."""

    def __init__(self, classes: int) -> None:
        super().__init__()
        self.one = nn.Conv3d(3, 3, 1)
        self.two = nn.Conv3d(3, 3, 1)
        self.two.weight = self.one.weight
        self.twice = nn.ReLU()
        self.never = nn.ReLU()
        self.drop = nn.Dropout(0.5)
        self.fc = nn.Linear(3, classes)

    def forward(self, x: Tensor) -> Tensor:
        out: Tensor = self.fc(self.drop(self.twice(self.two(self.twice(self.one(x)))).mean((2, 3, 4))))
        return out


def per_frame(classes: int = 5) -> nn.Module:
    return PerFrame(classes)


def cubes(classes: int = 5) -> nn.Module:
    return Cubes(classes)


def tokens(classes: int = 5, frames: int = 4, size: int = 16) -> nn.Module:
    return Tokens(classes, frames, size)


def tied(classes: int = 5) -> nn.Module:
    return Tied(classes)
