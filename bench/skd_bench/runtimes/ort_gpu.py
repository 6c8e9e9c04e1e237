"""ONNX Runtime on NVIDIA GPUs: its CUDA and TensorRT providers, and TensorRT-RTX as a plugin.

This module has not been run on a GPU yet. Tests without a GPU check that each provider is listed with the reason why it
is unavailable, and that a session which fell back to the CPU is refused. The conformance suite tests sessions on
machines with a GPU.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
from typing import Any

from skd_bench.errors import UserError
from skd_bench.runtimes.cuda import why_no_nvidia_driver
from skd_bench.runtimes.engine_cache import open_engine_cache
from skd_bench.runtimes.ort import CPU_PROVIDER, OrtRuntime

_GPU_PACKAGE = "onnxruntime-gpu"
_GPU_PIP = "pip install 'skd-edge[cuda]' in place of onnxruntime (both bring the same module)"
_CUDA, _TENSORRT = "CUDAExecutionProvider", "TensorrtExecutionProvider"
_PLUGIN, _PLUGIN_PIP = "onnxruntime_ep_nv_tensorrt_rtx", "pip install 'skd-edge[ort,tensorrt-rtx]'"
_PLUGIN_EP = "NvTensorRTRTXExecutionProvider"


class OrtGpuRuntime(OrtRuntime):
    """A provider that is built into onnxruntime-gpu.

    Args:
        name: "ort-cuda" or "ort-tensorrt".
        provider: ONNX Runtime's name of the provider. Operators that it cannot run use CUDA's, and then the CPU's.
    """

    def __init__(self, name: str, provider: str) -> None:
        self.name, self.provider = name, provider

    def why_unavailable(self) -> str | None:
        """Why it cannot be used here; None when it can. Loads only the driver's library."""
        try:
            importlib.metadata.version(_GPU_PACKAGE)
        except importlib.metadata.PackageNotFoundError:
            return f"{_GPU_PACKAGE} is not installed; {_GPU_PIP}"
        return why_no_nvidia_driver()

    def version(self) -> str | None:
        """The version of onnxruntime-gpu; None where it cannot be used."""
        return None if self.why_unavailable() else importlib.metadata.version(_GPU_PACKAGE)

    def configure_providers(self, options: Any) -> dict[str, list[Any]]:
        """This provider, then CUDA's, then the CPU's for operators that neither can run.

        FP32 is computed in FP32: TF32, the default of both providers on Ampere and newer GPUs, has 10 bits of mantissa.
        The engines of the TensorRT provider are stored in this user's cache, so that only the first session builds.
        """
        import onnxruntime as ort

        if self.provider not in ort.get_available_providers():
            raise UserError(f"the installed onnxruntime does not contain {self.provider}; {_GPU_PIP}")
        providers: list[Any] = [(_CUDA, {"use_tf32": "0"}), CPU_PROVIDER]
        if self.provider == _TENSORRT:
            # This provider has no option for TF32; NVIDIA's libraries read this variable when they are loaded.
            os.environ.setdefault("NVIDIA_TF32_OVERRIDE", "0")
            folder = str(open_engine_cache())
            cache = {"trt_engine_cache_enable": "1", "trt_engine_cache_path": folder}
            cache |= {"trt_timing_cache_enable": "1", "trt_timing_cache_path": folder}
            providers.insert(0, (_TENSORRT, cache))
        return {"providers": providers}


class OrtPluginRuntime(OrtRuntime):
    """TensorRT-RTX as a plugin of onnxruntime (CPU version); it builds its engine when the ONNX file is loaded."""

    name, provider = "ort-tensorrt-rtx", _PLUGIN_EP

    def why_unavailable(self) -> str | None:
        """Why it cannot be used here; None when it can. Loads only the driver's library."""
        if super().why_unavailable() is not None or importlib.util.find_spec(_PLUGIN) is None:
            return f"onnxruntime's TensorRT-RTX plugin is not installed; {_PLUGIN_PIP}"
        reason = why_no_nvidia_driver()
        return reason and f"the TensorRT-RTX plugin is installed and cannot run here: {reason}"

    def version(self) -> str | None:
        """ONNX Runtime's and the plugin's versions; None where it cannot be used."""
        if self.why_unavailable():
            return None
        return f"{super().version()} with plugin {importlib.metadata.version(f'{_PLUGIN}_cu13'.replace('_', '-'))}"

    def configure_providers(self, options: Any) -> dict[str, list[Any]]:
        """Register the plugin once per process, and add its first GPU to the session options."""
        import onnxruntime as ort

        plugin = importlib.import_module(_PLUGIN)
        devices = _find_plugin_devices(ort)
        if not devices:
            ort.register_execution_provider_library(_PLUGIN, str(plugin.get_library_path()))
            devices = _find_plugin_devices(ort)
        if not devices:
            raise UserError("the TensorRT-RTX plugin finds no GPU that it supports; it needs an RTX GPU")
        options.add_provider_for_devices(devices[:1], {})
        return {}


def _find_plugin_devices(ort: Any) -> list[Any]:
    return [device for device in ort.get_ep_devices() if device.ep_name == _PLUGIN_EP]
