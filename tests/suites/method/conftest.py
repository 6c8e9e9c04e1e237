"""What tests of the study share: what the suites register is undone, and training runs in one thread."""

from __future__ import annotations

import sys

import pytest
import torch


@pytest.fixture
def suites():
    """Undoes what the suites register in our modules."""
    from skd_edge.distill.losses import LOGIT_LOSSES
    from skd_edge.distill.losses.distribution import DISTRIBUTION_LOSSES

    registries = [(registry, dict(registry)) for registry in (LOGIT_LOSSES, DISTRIBUTION_LOSSES)]
    threads = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(threads)
    for registry, before in registries:
        registry.clear()
        registry.update(before)
    for name in [n for n in sys.modules if n.startswith("bench.suites")]:
        sys.modules.pop(name, None)
