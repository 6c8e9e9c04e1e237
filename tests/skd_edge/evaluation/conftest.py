"""A recipe of the smallest networks, its training data in memory, and what exports and scores them."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import numpy as np
import pytest
import torch

from skd_edge.evaluation.candidate_exporter import CandidateExporter
from skd_edge.evaluation.file_scorer import FileScorer
from skd_edge.labels.dataset import TrainingData
from skd_edge.models.builder import build_network
from skd_edge.models.tsm import TSM
from skd_edge.recipe.schema import Recipe


@pytest.fixture(scope="session")
def make_recipe() -> Callable[..., Recipe]:
    """Makes a recipe with one small student: ``make_recipe({"family": "resnet"}, export={...})``."""

    def make(student: dict[str, Any] | None = None, **sections: Any) -> Recipe:
        network = {"name": "small", "width": 4, "depths": [1, 1], **(student or {})}
        export = {"calibration_clips": 20, "int8_agreement": 0.0, **sections.pop("export", {})}
        base = {"name": "r", "data": {"kind": "generated"}, "clip": {"frames": 4, "size": 16}, "students": [network]}
        return Recipe.model_validate({**base, "teacher": {"width": 4, "depths": [1, 1]}, "export": export, **sections})

    return make


@pytest.fixture
def recipe(make_recipe) -> Recipe:
    return make_recipe()


@pytest.fixture
def training_data(tiny_clips) -> TrainingData:
    return TrainingData(tiny_clips, tiny_clips.train.labels, None, "weak", ())


@pytest.fixture
def network(recipe, tiny_clips) -> TSM:
    """The student with seeded random weights, in eval mode."""
    student = recipe.students[0]
    return build_network(student, classes=len(tiny_clips.classes), clip=recipe.clip, seed=3).eval()


@pytest.fixture
def scorer(recipe, tiny_clips, tmp_path) -> FileScorer:
    return FileScorer(recipe, tiny_clips.classes, tmp_path / "artefacts")


@pytest.fixture
def exporter(recipe, tiny_clips, tmp_path) -> CandidateExporter:
    return CandidateExporter(recipe, tiny_clips.classes, tmp_path / "artefacts")


@pytest.fixture
def compute_network_logits(scorer) -> Callable[..., np.ndarray]:
    """The logits ``(N, C)`` of a network on clips, computed by PyTorch."""

    def compute(network: TSM, clips: Any) -> np.ndarray:
        with torch.no_grad():
            batches = [network(torch.from_numpy(x)).logits for x in scorer.iter_network_inputs(clips)]
        return torch.cat(batches).numpy()

    return compute
