"""ONNX Runtime's GPU providers on a machine without a GPU."""

import os

import pytest

from skd_bench.errors import UserError
from skd_bench.runtimes import registered_runtimes
from skd_bench.runtimes.ort import OrtRuntime
from skd_bench.runtimes.ort_gpu import OrtGpuRuntime


class NoGpu(OrtRuntime):
    """A provider that cannot be loaded: ONNX Runtime uses the CPU and only warns."""

    name, provider = "ort-cuda", "CUDAExecutionProvider"

    def configure_providers(self, options):
        return {"providers": ["CPUExecutionProvider"]}


def test_a_session_that_fell_back_to_the_cpu_is_refused(network, tmp_path):
    with pytest.raises(UserError, match=r"put .* on CPUExecutionProvider, because CUDAExecutionProvider does not load"):
        NoGpu().load(network(tmp_path / "x.onnx"), threads=1)


def test_a_build_without_the_provider_is_refused():
    with pytest.raises(UserError, match="does not contain NoSuchExecutionProvider; pip install"):
        OrtGpuRuntime("ort-cuda", "NoSuchExecutionProvider").configure_providers(None)


@pytest.mark.parametrize("name", ["ort-cuda", "ort-tensorrt", "ort-tensorrt-rtx"])
def test_a_version_is_reported_only_where_the_runtime_can_be_used(name):
    runtime = registered_runtimes()[name]
    reason = runtime.why_unavailable()
    assert (runtime.version() is None) == (reason is not None)
    assert reason is None or "pip install" in reason or "driver" in reason


@pytest.mark.parametrize("name", ["ort-cuda", "ort-tensorrt"])
def test_fp32_is_not_tf32_and_engines_are_stored(name, tmp_path, monkeypatch):
    import onnxruntime

    monkeypatch.setenv("SKD_EDGE_CACHE", str(tmp_path))
    monkeypatch.delenv("NVIDIA_TF32_OVERRIDE", raising=False)
    runtime = registered_runtimes()[name]
    monkeypatch.setattr(onnxruntime, "get_available_providers", lambda: [runtime.provider])
    providers = runtime.configure_providers(None)["providers"]
    assert providers[-2:] == [("CUDAExecutionProvider", {"use_tf32": "0"}), "CPUExecutionProvider"]
    if name == "ort-tensorrt":
        first, options = providers[0]
        assert first == "TensorrtExecutionProvider"
        assert options["trt_engine_cache_path"] == str(tmp_path / "engines")
        assert (options["trt_engine_cache_enable"], os.environ["NVIDIA_TF32_OVERRIDE"]) == ("1", "0")
