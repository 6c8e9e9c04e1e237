"""Grafting: shapes, the frozen teacher, and gradients for learner and adapters only."""

from __future__ import annotations

import pytest
import torch

from skd_edge.distill.grafting import GraftedTeacher
from skd_edge.models.tsm import build_tsm
from skd_edge.recipe.schema import NetworkSpec


def make_network(name, width, seed):
    return build_tsm(NetworkSpec(name=name, width=width), classes=5, frames=2, size=32, seed=seed)


@pytest.fixture
def networks():
    learner, teacher = make_network("learner", 4, 0), make_network("teacher", 8, 1)
    return learner, teacher.eval().requires_grad_(False)


@pytest.fixture
def clips():
    return torch.randn(3, 3, 2, 32, 32, generator=torch.Generator().manual_seed(0))


@pytest.mark.parametrize("substage", [1, 2, 3])
def test_each_substage_gives_logits_and_gradients(networks, clips, substage):
    learner, teacher = networks
    grafted = GraftedTeacher(learner.widths, teacher)
    logits = grafted(learner(clips, substage).last_feature_map, substage)
    assert logits.shape == (3, 5)
    logits.square().sum().backward()
    trained = [p.grad is not None and bool(p.grad.any()) for p in grafted.adapters[substage - 1].parameters()]
    assert any(trained)
    assert any(p.grad is not None and bool(p.grad.any()) for p in learner.parameters())
    others = [a for k, a in enumerate(grafted.adapters, 1) if k != substage]
    assert all(p.grad is None for adapter in others for p in adapter.parameters())
    assert all(p.grad is None for p in teacher.parameters())


def test_the_teacher_is_not_part_of_the_module(networks):
    learner, teacher = networks
    grafted = GraftedTeacher(learner.widths, teacher).train()
    assert not teacher.training
    assert all(name.startswith("adapters.") for name in grafted.state_dict())
    assert not {id(p) for p in grafted.parameters()} & {id(p) for p in teacher.parameters()}


def test_a_teacher_with_another_number_of_substages_is_an_error(networks):
    learner, teacher = networks
    with pytest.raises(ValueError, match="argument 2 is"):
        GraftedTeacher(learner.widths[:2], teacher)
