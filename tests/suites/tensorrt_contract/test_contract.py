"""Our calls exist in the real bindings: six versions of TensorRT over stub libraries, TensorRT-RTX as installed."""

import json
import subprocess
import sys

import pytest

from bench.suites.tensorrt_contract.api_use import Use, find_uses
from bench.suites.tensorrt_contract.bindings import VERSIONS, UnavailableError, install
from bench.suites.tensorrt_contract.check import SOURCE, find_problem
from skd_bench.runtimes.tensorrt.library import FLAVOURS, find_installed_modules

# What only TensorRT-RTX has: builds for GPUs that are not here, and kernels that are compiled while an engine runs.
RTX_ONLY = (
    "ComputeCapability",
    "IBuilderConfig.num_compute_capabilities",
    "IBuilderConfig.set_compute_capability",
    "CudaGraphStrategy",
    "DynamicShapesKernelSpecializationStrategy",
    "ICudaEngine.create_runtime_config",
    "IRuntimeConfig",
    "IRuntimeCache",
)


def check(runtime, root, environment=None, *arguments):
    words = [sys.executable, "-m", "bench.suites.tensorrt_contract.check", runtime, *map(str, arguments)]
    done = subprocess.run(words, cwd=root, env=environment, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr[-2000:]
    return json.loads(done.stdout)


def is_rtx_only(problem):
    if problem["name"] == "ICudaEngine.create_execution_context":
        return problem["keywords"] == ["runtime_config"]
    return problem["name"].startswith(RTX_ONLY)


@pytest.mark.parametrize("version", VERSIONS)
def test_the_calls_exist_and_missing_objects_are_explained(version, root, tmp_path):
    try:
        environment = install(version, tmp_path / "bindings")
    except UnavailableError as error:
        pytest.skip(str(error))
    (tmp_path / "empty").mkdir()
    found = check("tensorrt", root, environment, tmp_path / "empty")
    assert found["version"] == version
    assert [p for p in found["problems"] if not is_rtx_only(p)] == []
    assert len(found["problems"]) >= 10  # TensorRT-RTX's own are seen to be missing
    assert {"FLOAT", "HALF", "BF16", "INT8", "FP8"} <= set(found["types"])  # for `find_precision`
    assert f"TensorRT {version} cannot create a builder: it needs a GPU" in found["errors"]["builder"]
    assert f"TensorRT {version} cannot start: it needs a GPU" in found["errors"]["runtime"]
    assert found["monitor"] == [True, 1]
    assert found["is_strongly_typed"] == bool(found["strongly_typed_flag"])


@pytest.mark.skipif(
    find_installed_modules(FLAVOURS["tensorrt-rtx"]) is None, reason="TensorRT-RTX does not install on this machine"
)
def test_the_calls_exist_in_tensorrt_rtx(root):
    found = check("tensorrt-rtx", root)
    assert found["problems"] == []
    assert found["uses"] > 80


def test_a_use_that_does_not_fit_is_found():
    class Config:
        def set_flag(self):
            """set_flag(self: Config, flag: Flag, value: Dict[str, int] = {'a': 1}) -> None"""

    class Module:
        IBuilderConfig = Config

    def problem(name, *count, keywords=()):
        return find_problem(Module, Use(f"IBuilderConfig.{name}", "x.py:1", *count, keywords))

    assert problem("set_flag", 1) is None
    assert problem("set_flag", 1, keywords=("value",)) is None
    assert "takes [(1, ['flag', 'value'])]" in problem("set_flag", 0)
    assert problem("set_flag", 3) is not None
    assert problem("set_flag", 1, keywords=("other",)) is not None
    assert problem("clear_flag") == "missing"


def test_every_kind_of_use_is_read_from_the_source():
    uses = {use.name: use for use in find_uses(SOURCE)}
    assert uses["Builder.build_serialized_network"].arguments == 2
    assert uses["IBuilderConfig.builder_optimization_level"].arguments is None  # assigned
    assert {"BuilderFlag.TF32", "MemoryPoolType.WORKSPACE", "ILogger.Severity", "OnnxParser", "nptype"} <= set(uses)
    assert any(use.keywords == ("runtime_config",) for use in find_uses(SOURCE))
