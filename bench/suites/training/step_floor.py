"""The least time that a training step of a network can take on this machine.

That is the larger of two: its operations over the rate of a matrix product, and the bytes of its activations over the
bandwidth of a copy that fits into a cache.
"""

from __future__ import annotations

import time
from collections.abc import Callable
from dataclasses import dataclass, replace

import torch

from skd_edge.distill.job import JobSpec
from skd_edge.distill.trainer import build_learner
from skd_edge.execution.memory import count_stored_bytes
from skd_edge.models.catalogue import describe_network, without_weight_files

# Short, so that some rounds are not interrupted where other processes run. The copy is as large as an activation at 24
# pixels, which the next operator finds in a cache: with the bandwidth of the memory, this would be no floor.
_MATRIX, _COPIED_FLOATS, _ROUNDS = 384, 512 << 10, 50
_PASSES = 3  # forward, and backward for the weights and for the inputs
_TRANSFERS = 4  # an activation is written and read forward, read backward, and its gradient is written


@dataclass(frozen=True)
class MachineRates:
    """What this machine does at best, with torch's threads.

    Attributes:
        operations: float32 multiplications and additions a second, in a matrix product.
        bytes: bytes read and written a second, in a copy that fits into a cache.
    """

    operations: float
    bytes: float


def measure_rates() -> MachineRates:
    """Time a matrix product and a copy; the fastest of several rounds counts."""
    a, b = torch.rand(_MATRIX, _MATRIX), torch.rand(_MATRIX, _MATRIX)
    source, target = torch.rand(_COPIED_FLOATS), torch.empty(_COPIED_FLOATS)
    product, copy = _measure_fastest(lambda: a @ b), _measure_fastest(lambda: target.copy_(source))
    return MachineRates(2 * _MATRIX**3 / product, 2 * 4 * _COPIED_FLOATS / copy)


def _measure_fastest(work: Callable[[], object]) -> float:
    work()
    spent = []
    for _ in range(_ROUNDS):
        began = time.perf_counter()
        work()
        spent.append(time.perf_counter() - began)
    return min(spent)


def compute_floor_ms(spec: JobSpec, rates: MachineRates) -> dict[str, float]:
    """The floor of one step, in milliseconds: by ``operations`` and by ``bytes``."""
    macs = describe_network(spec.learner.name, spec.learner, spec.clip).macs
    with torch.device("meta"):
        x = torch.zeros(1, 3, spec.clip.frames, spec.clip.size, spec.clip.size)
        stored = count_stored_bytes(build_learner(replace(spec, learner=without_weight_files(spec.learner))), x)
    batch = spec.training.batch
    return {
        "operations": 1e3 * _PASSES * 2 * macs * batch / rates.operations,
        "bytes": 1e3 * _TRANSFERS * stored * batch / rates.bytes,
    }
