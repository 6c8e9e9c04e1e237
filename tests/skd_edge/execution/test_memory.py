"""The memory of a job: estimated from its network, replaced by what a finished job needed."""

from __future__ import annotations

import os
import subprocess
import sys
from dataclasses import replace

import pytest

from skd_edge.execution.job_graph import DatasetFingerprint, build_recipe_job_graph
from skd_edge.execution.memory import MemoryModel, measure_peak_bytes, read_available_bytes, read_private_bytes
from skd_edge.recipe.schema import Recipe

RECIPE = Recipe.model_validate(
    {
        "name": "r",
        "data": {"kind": "generated"},
        "clip": {"frames": 8, "size": 56},
        "teacher": {"family": "resnet", "width": 16},
        "students": [{"name": "small", "width": 8}],
        "schedule": {"controls": []},
    }
)
SCOUT, TEACHER, STUDENT = build_recipe_job_graph(RECIPE, DatasetFingerprint("d", "w", 10), RECIPE.students)[-3:]
PEAK = """
import numpy as np
from skd_edge.execution.memory import measure_peak_bytes
before = measure_peak_bytes()
x = np.ones(50 << 20, np.uint8)
del x
print(measure_peak_bytes() - before)
"""


def change_training(job, **settings):
    return replace(job, spec=replace(job.spec, training=job.spec.training.model_copy(update=settings)))


def test_the_estimate_grows_with_what_is_stored_for_the_backward_pass():
    memory = MemoryModel()
    base = memory.estimate_bytes(change_training(TEACHER, batch=2))
    whole, double = (memory.estimate_bytes(change_training(TEACHER, batch=n)) - base for n in (64, 126))
    assert double == pytest.approx(2 * whole, rel=1e-6)
    halves = memory.estimate_bytes(change_training(TEACHER, batch=128, accumulate=2)) - base
    assert halves == pytest.approx(whole, rel=1e-6)
    wider = replace(TEACHER, spec=replace(TEACHER.spec, learner=TEACHER.spec.learner.model_copy(update={"width": 32})))
    assert MemoryModel().estimate_bytes(wider) > 1.3 * memory.estimate_bytes(TEACHER)


def test_the_estimate_is_near_the_bytes_of_the_activations():
    """The first convolution alone stores its output and that of BatchNorm: 16 channels at 56 pixels in 8 frames."""
    memory = MemoryModel()
    one, two = (memory.estimate_bytes(change_training(TEACHER, batch=n)) for n in (2, 3))
    assert 2 * 4 * 16 * 8 * 56**2 < two - one < 40 * 4 * 16 * 8 * 56**2


@pytest.mark.filterwarnings("error")
def test_the_estimate_of_a_network_with_trained_weights_reads_none():
    """Reading weights into a network without memory does nothing, and torch warns of each tensor."""
    estimates = []
    for start in ("imagenet", "seed"):
        settings = {"family": "efficientnet-lite0", "start": start, "name": start}
        learner = STUDENT.spec.learner.model_copy(update=settings)
        estimates.append(MemoryModel().estimate_bytes(replace(STUDENT, spec=replace(STUDENT.spec, learner=learner))))
    assert estimates[0] == estimates[1] > 380 << 20


def test_a_measured_peak_replaces_the_estimate_for_jobs_of_the_same_kind():
    memory = MemoryModel()
    memory.add_peak(TEACHER, 7 << 30)
    memory.add_peak(TEACHER, 5 << 30)
    assert memory.estimate_bytes(SCOUT) == memory.estimate_bytes(TEACHER) == 7 << 30
    assert memory.estimate_bytes(STUDENT) < 7 << 30


def test_the_peak_stays_when_memory_is_freed():
    done = subprocess.run([sys.executable, "-c", PEAK], capture_output=True, text=True, check=True)
    assert 45 << 20 < int(done.stdout) < 80 << 20


def test_this_machine_has_memory():
    available = read_available_bytes()
    assert available is None or 0 < available < 1 << 50
    assert 0 < read_private_bytes(os.getpid()) <= measure_peak_bytes() + (256 << 20)
    assert read_private_bytes(2**30) == 0  # no such process
