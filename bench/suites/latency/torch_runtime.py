"""PyTorch on the CPU, eager and compiled, as runtimes: the baselines of the latency suites.

PyTorch is measured for comparison only: nothing is deployed on it, and the package for devices does not contain it.
"""

from __future__ import annotations

import importlib
import importlib.metadata
import importlib.util
import os
import shutil
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from bench.suites.latency.torch_graph import build_torch_module
from skd_bench.benchmark.fresh_process import run_in_fresh_process
from skd_bench.benchmark.worker_job import WorkerJob, WorkerResult
from skd_bench.errors import UserError
from skd_bench.runtimes import register_runtime, registered_runtimes
from skd_bench.runtimes.base import check_clip, check_load_arguments, check_logits, first_error_line

ROOT = Path(__file__).resolve().parents[3]
_PIP = "pip install 'skd-edge[train]'"


class TorchRuntime:
    """FP32 ONNX files as PyTorch modules (`torch_graph`), channels-last, BatchNorm folded, in inference mode.

    Args:
        name: "torch-eager", or "torch-compile" for `torch.compile`, which compiles again for each batch size.
    """

    def __init__(self, name: str) -> None:
        self.name, self._compiles = name, name == "torch-compile"

    def why_unavailable(self) -> str | None:
        """The reason why this runtime cannot be used here, or None if it can. Imports nothing."""
        for module in ("torch", "onnx"):
            if importlib.util.find_spec(module) is None:
                return f"{module} is not installed; {_PIP} (it is only a baseline; devices do not need it)"
        if self._compiles and not any(shutil.which(c) for c in (os.environ.get("CXX", "g++"), "g++", "clang++")):
            return "torch.compile needs a C++ compiler, but g++ and clang++ are not installed; install one of them"
        return None

    def version(self) -> str | None:
        """The installed version of torch; None if this runtime cannot be used."""
        return None if self.why_unavailable() else importlib.metadata.version("torch")

    def import_libraries(self) -> None:
        """Import torch and onnx."""
        importlib.import_module("torch")
        importlib.import_module("onnx")

    def load(self, path: Path, *, threads: int) -> TorchSession:
        """Load an ONNX file; see `skd_bench.runtimes.base.Runtime.load`."""
        reason = self.why_unavailable()
        if reason is not None:
            raise UserError(reason)
        return TorchSession(check_load_arguments(path, threads), threads, self._compiles)


class TorchSession:
    """One ONNX file as a PyTorch module.

    The number of threads is a setting of the whole process, so each `run` sets it if another session changed it.

    Raises:
        UserError: The file is not an ONNX model with one input and one float32 output, or it contains an operator that
            is not translated.
    """

    def __init__(self, path: Path, threads: int, compiles: bool) -> None:
        self._torch = _import_module("torch")
        self._path, self._threads, self._compiles = path, threads, compiles
        self._module, self.input, self.output = build_torch_module(path)
        check_logits(path, self.output)
        if compiles:
            # More threads start a pool of compiler processes, which would still run during the first queries.
            _import_module("torch._inductor.config").compile_threads = 1
            self._module = self._torch.compile(self._module, dynamic=False)

    def run(self, x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Compute the logits of one batch; see `skd_bench.runtimes.base.Session.run`."""
        torch = self._torch
        if self._module is None:
            raise UserError(f"the session of {self._path} is closed; load the file again")
        check_clip(self._path, self.input, x)
        if torch.get_num_threads() != self._threads:
            torch.set_num_threads(self._threads)
        clip = np.ascontiguousarray(x)
        try:
            with torch.inference_mode():
                logits = self._module(torch.from_numpy(clip if clip.flags.writeable else clip.copy()))
        except Exception as error:
            raise UserError(f"PyTorch failed on {self._path}: {first_error_line(error)}") from error
        answer: npt.NDArray[np.float32] = logits.numpy()
        return answer if answer.base is None else answer.copy()

    def runtime_info(self) -> dict[str, object]:
        """Runtime, version, threads, whether it is compiled, and memory layout."""
        return {
            "runtime": "torch-compile" if self._compiles else "torch-eager",
            "version": str(self._torch.__version__),
            "threads": self._threads,
            "compiled": self._compiles,
            "memory_format": "channels_last",
            "inference_mode": True,
        }

    def close(self) -> None:
        """Free the network; the session cannot be used afterwards."""
        self._module = None


def _import_module(name: str) -> Any:
    return importlib.import_module(name)


def register_torch_runtimes() -> None:
    """Register ``torch-eager`` and ``torch-compile`` in this process."""
    for name in {"torch-eager", "torch-compile"} - set(registered_runtimes()):
        register_runtime(TorchRuntime(name))


def run_in_torch_process(job: WorkerJob) -> WorkerResult:
    """The ``run_job`` argument of `measure_latency`: run in a fresh process that also has PyTorch's runtimes."""
    return run_in_fresh_process(job, worker="bench.suites.latency.torch_worker", import_path=[str(ROOT)])
