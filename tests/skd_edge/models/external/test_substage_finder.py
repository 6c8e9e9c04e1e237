"""Substages of networks that the recipe does not divide: found where the maps shrink."""

from __future__ import annotations

import torch
from torch import nn

from skd_edge.models.external.substage_finder import find_substages


def layer(cin, cout, stride):
    return nn.Sequential(nn.Conv2d(cin, cout, 3, stride, 1), nn.BatchNorm2d(cout), nn.ReLU())


class Chain(nn.Module):
    """Maps of 32, 16, 16, 8, 4 and 2 pixels for frames of 64, in one chain, as in MobileNet."""

    def __init__(self):
        super().__init__()
        strides = (2, 2, 1, 2, 2, 2)
        self.features = nn.Sequential(*(layer(3 if k == 0 else 4, 4, s) for k, s in enumerate(strides)))
        self.classifier = nn.Linear(4, 3)

    def forward(self, x):
        return self.classifier(self.features(x).mean((2, 3)))


class Named(Chain):
    """The same with a module for each stage, as in ResNet, whose pooling returns maps of one pixel."""

    def __init__(self):
        super().__init__()
        self.stem, self.layer1 = self.features[0], self.features[1:3]
        self.layer2, self.layer3, self.layer4 = self.features[3], self.features[4], self.features[5]
        del self.features
        self.pool = nn.AdaptiveAvgPool2d(1)

    def forward(self, x):
        return self.classifier(self.pool(self.layer4(self.layer3(self.layer2(self.layer1(self.stem(x)))))).flatten(1))


class Failing(Chain):
    def forward(self, x):
        raise RuntimeError("not for frames")


def test_a_substage_ends_where_the_map_next_shrinks():
    assert find_substages(Chain()) == ("features.2", "features.3", "features.4", "features.5")
    assert find_substages(Chain(), 2) == ("features.4", "features.5")
    assert find_substages(Named()) == ("layer1", "layer2", "layer3", "layer4")


def test_nothing_is_found_where_the_maps_do_not_shrink_so_often_or_the_network_does_not_run():
    assert find_substages(nn.Sequential(layer(3, 4, 2), layer(4, 4, 2))) == ()
    assert find_substages(Failing()) == ()
    assert find_substages(Chain(), 6) == ()


def test_weights_statistics_and_mode_stay_unchanged():
    network = Chain().train()
    network.features[1].eval()
    before = {name: tensor.clone() for name, tensor in network.state_dict().items()}
    find_substages(network)
    assert all(torch.equal(tensor, before[name]) for name, tensor in network.state_dict().items())
    assert network.training
    assert network.features[0][1].training
    assert not network.features[1][1].training
