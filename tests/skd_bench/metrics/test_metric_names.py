"""Names of metrics are read with a recipe, before anything heavy is loaded."""

import subprocess
import sys
from typing import get_args

import pytest

from skd_bench.metrics.metric_names import METRIC_NAMES, Metric


def test_every_metric_has_a_name_for_people():
    assert set(METRIC_NAMES) == set(get_args(Metric))


@pytest.mark.parametrize("module", ["skd_bench.metrics.metric_names", "skd_edge.recipe.sections"])
def test_numpy_is_not_loaded(module):
    code = f"import sys, {module}; sys.exit('numpy' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], check=False).returncode == 0
