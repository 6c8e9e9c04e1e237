"""A session of a TensorRT engine: its GPU memory, its stream, and queries with or without a CUDA graph.

This module has not been run on a GPU yet; it was written from the documentation of the interface. On machines with a
GPU, the conformance suite `tests/skd_bench/runtimes/test_conformance.py` tests it; elsewhere those tests are skipped.
"""

from __future__ import annotations

import ctypes
import itertools
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np
import numpy.typing as npt

from skd_bench.errors import UserError
from skd_bench.files import write_atomic
from skd_bench.runtimes.base import TensorSpec, check_clip
from skd_bench.runtimes.cuda import Gpu, call_cuda, import_cuda_bindings
from skd_bench.runtimes.tensorrt.engine_file import EngineMetadata
from skd_bench.runtimes.tensorrt.layers import inspect_layers
from skd_bench.runtimes.tensorrt.library import TensorRTLibrary, first_error


def _read_free_mb() -> float | None:
    """Free memory of the GPU in MiB, which other programs change too; None where CUDA does not report it."""
    try:
        free, _ = call_cuda(import_cuda_bindings().cudaMemGetInfo)
    except UserError:
        return None
    return float(free) / 2**20


@dataclass(frozen=True)
class SessionOptions:
    """How an engine runs.

    Attributes:
        cuda_graphs: Whether to replay each query as a CUDA graph.
        allow_host_code: Whether the engine may run code on this machine's CPU, as version-compatible engines do.
        kernel_cache: The file for the kernels that TensorRT-RTX compiles; None: every session compiles them again.
    """

    cuda_graphs: bool = True
    allow_host_code: bool = False
    kernel_cache: Path | None = None


class TensorRTSession:
    """One engine, loaded. Clips are copied to the GPU, and logits back, through pinned memory.

    With CUDA graphs, TensorRT's launch and both copies are replayed as one graph, which is captured again when the
    batch size changes. Where a capture fails, queries are launched without one, and `runtime_info` has the reason.
    TensorRT-RTX compiles kernels while it runs, so it captures graphs itself. With a cache file, TensorRT-RTX reads the
    kernels of earlier sessions and writes them back on close; it checks that GPU, driver and version fit the cache.

    Args:
        lib: The TensorRT library.
        path: The engine file.
        metadata: The engine's metadata.
        gpu: The GPU in use.
        options: CUDA graphs, host code and the kernel cache.
        threads: Only reported by `runtime_info`; queries run on the GPU.

    Raises:
        UserError: The library cannot load the engine, or the GPU has too little memory for it.
    """

    def __init__(
        self,
        lib: TensorRTLibrary,
        path: Path,
        metadata: EngineMetadata,
        gpu: Gpu,
        options: SessionOptions,
        *,
        threads: int,
    ) -> None:
        self._lib, self._path, self._metadata, self._gpu = lib, path, metadata, gpu
        self._threads, self._graphs, self._no_graph_reason = threads, options.cuda_graphs, ""
        self._name = lib.flavour.name if options.cuda_graphs else f"{lib.flavour.name}-nograph"
        low, _, high = metadata.batches
        self.input = TensorSpec(metadata.input, (None if low < high else high, *metadata.shape), metadata.dtype)
        self.output = TensorSpec(metadata.output, (self.input.shape[0], metadata.classes), "float32")
        self._compiles = lib.flavour.name == "tensorrt-rtx"
        self._graph: Any = None
        self._cache: Any = None
        self._cache_path, self._cache_used = options.kernel_cache, False
        self._batch = 0
        self._resources: list[tuple[Any, Any]] = []  # each with the function that frees it
        self._gpu_mb: float | None = None
        before = _read_free_mb()
        try:
            self._runtime, self._engine, self._context = self._load_engine(options.allow_host_code)
            after = _read_free_mb()
            self._gpu_mb = None if before is None or after is None else round(before - after, 1)
            cuda = import_cuda_bindings()
            self._stream = self._register_resource(call_cuda(cuda.cudaStreamCreate), cuda.cudaStreamDestroy)
            self._device_in, self._host_in = self._allocate_buffers((high, *metadata.shape), metadata.dtype)
            self._device_out, self._host_out = self._allocate_buffers((high, metadata.classes), "float32")
        except UserError:
            self.close()
            raise

    def _load_engine(self, host_code: bool) -> tuple[Any, Any, Any]:
        lib, trt = self._lib, self._lib.trt
        lib.log.clear()
        try:
            runtime = trt.Runtime(lib.log)
        except (TypeError, RuntimeError) as error:  # what pybind raises where the factory returned a null pointer
            reason = first_error(lib.log, "it needs a GPU, and a driver that is new enough for this version")
            raise UserError(f"{lib.title} cannot start: {reason}; skd-edge doctor shows the driver") from error
        runtime.engine_host_code_allowed = host_code
        engine = runtime.deserialize_cuda_engine(self._path.read_bytes())
        context = None
        if engine is not None and self._compiles:
            config = engine.create_runtime_config()
            strategy = trt.CudaGraphStrategy
            config.cuda_graph_strategy = strategy.WHOLE_GRAPH_CAPTURE if self._graphs else strategy.DISABLED
            # The default (LAZY) compiles faster kernels beside the first queries, which would be measured.
            config.dynamic_shapes_kernel_specialization_strategy = trt.DynamicShapesKernelSpecializationStrategy.EAGER
            if self._cache_path is not None:
                self._cache = config.create_runtime_cache()
                if self._cache_path.is_file():
                    self._cache_used = bool(self._cache.deserialize(self._cache_path.read_bytes()))
                config.set_runtime_cache(self._cache)
            context = engine.create_execution_context(runtime_config=config)
        elif engine is not None:
            context = engine.create_execution_context()
        if context is None:
            raise UserError(f"{lib.title} cannot load {self._path}: {first_error(lib.log, 'no reason given')}")
        return runtime, engine, context

    def _register_resource(self, resource: Any, free: Any) -> Any:
        self._resources.append((resource, free))
        return resource

    def _allocate_buffers(self, shape: tuple[int, ...], dtype: str) -> tuple[int, npt.NDArray[Any]]:
        """GPU memory (its address) and pinned host memory (as an array) for the largest batch."""
        cuda = import_cuda_bindings()
        size = int(np.prod(shape)) * np.dtype(dtype).itemsize
        device = self._register_resource(int(call_cuda(cuda.cudaMalloc, size)), cuda.cudaFree)
        host = self._register_resource(int(call_cuda(cuda.cudaMallocHost, size)), cuda.cudaFreeHost)
        raw = (ctypes.c_uint8 * size).from_address(host)
        return device, np.ctypeslib.as_array(raw).view(dtype).reshape(shape)

    def run(self, x: npt.NDArray[Any]) -> npt.NDArray[np.float32]:
        """Compute the logits of one batch and wait for the GPU: see `InferenceSession.run`."""
        if self._context is None:
            raise UserError(f"the session of {self._path} is closed")
        self._check_batch(x)
        batch = len(x)
        np.copyto(self._host_in[:batch], x)
        if batch != self._batch:
            self._prepare_batch(batch)
        if self._graph is not None:
            call_cuda(import_cuda_bindings().cudaGraphLaunch, self._graph, self._stream)
        else:
            self._enqueue_query(batch)
        call_cuda(import_cuda_bindings().cudaStreamSynchronize, self._stream)
        return np.array(self._host_out[:batch], np.float32)

    def _check_batch(self, x: npt.NDArray[Any]) -> None:
        low, _, high = self._metadata.batches
        check_clip(self._path, TensorSpec(self.input.name, (None, *self._metadata.shape), self.input.dtype), x)
        if not low <= len(x) <= high:
            raise UserError(
                f"{self._path} was built for batches of {low} to {high} clips, not {len(x)}; build it for other batches"
            )

    def _prepare_batch(self, batch: int) -> None:
        """Set the batch size; with TensorRT and CUDA graphs, also capture the graph of one query."""
        metadata, cuda = self._metadata, import_cuda_bindings()
        self._drop_graph()
        self._batch = 0
        done = self._context.set_input_shape(metadata.input, (batch, *metadata.shape))
        done = done and self._context.set_tensor_address(metadata.input, self._device_in)
        if not (done and self._context.set_tensor_address(metadata.output, self._device_out)):
            raise self._make_run_error()
        if self._graphs and not self._compiles:
            self._enqueue_query(batch)  # the first launch with a new shape does work that cannot be captured
            call_cuda(cuda.cudaStreamSynchronize, self._stream)
            try:
                self._graph = self._capture_graph(batch)
            except UserError as error:  # some engines cannot be captured: each query is then launched step by step
                self._graphs, self._no_graph_reason = False, str(error)
        self._batch = batch

    def _capture_graph(self, batch: int) -> Any:
        """One query as a CUDA graph that can be launched."""
        cuda = import_cuda_bindings()
        mode = cuda.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal
        call_cuda(cuda.cudaStreamBeginCapture, self._stream, mode)
        try:
            self._enqueue_query(batch)
        finally:
            graph = call_cuda(cuda.cudaStreamEndCapture, self._stream)
        try:
            return call_cuda(cuda.cudaGraphInstantiate, graph, 0)
        finally:
            call_cuda(cuda.cudaGraphDestroy, graph)

    def _enqueue_query(self, batch: int) -> None:
        for step in self._list_query_steps(batch):
            step()

    def _list_query_steps(self, batch: int) -> tuple[Callable[[], object], ...]:
        """The three steps of a query to put on the stream: copy to the GPU, run the engine, copy back."""
        cuda = import_cuda_bindings()
        kind, clips, logits = cuda.cudaMemcpyKind, self._host_in[:batch], self._host_out[:batch]
        to, back = kind.cudaMemcpyHostToDevice, kind.cudaMemcpyDeviceToHost
        copy = partial(call_cuda, cuda.cudaMemcpyAsync)
        return (
            partial(copy, self._device_in, clips.ctypes.data, clips.nbytes, to, self._stream),
            self._execute_engine,
            partial(copy, logits.ctypes.data, self._device_out, logits.nbytes, back, self._stream),
        )

    def _execute_engine(self) -> None:
        if not self._context.execute_async_v3(int(self._stream)):
            raise self._make_run_error()

    def time_breakdown(self, x: npt.NDArray[Any]) -> dict[str, float]:
        """Measure the three steps with CUDA events and without a graph: see `TimedSession.time_breakdown`."""
        self.run(x)  # checks the clip and sets the batch size
        cuda, batch = import_cuda_bindings(), len(x)
        events = [call_cuda(cuda.cudaEventCreate) for _ in range(4)]
        try:
            steps = self._list_query_steps(batch)
            call_cuda(cuda.cudaEventRecord, events[0], self._stream)
            for event, step in zip(events[1:], steps, strict=True):
                step()
                call_cuda(cuda.cudaEventRecord, event, self._stream)
            call_cuda(cuda.cudaStreamSynchronize, self._stream)
            spent = [float(call_cuda(cuda.cudaEventElapsedTime, a, b)) for a, b in itertools.pairwise(events)]
        finally:
            for event in events:
                cuda.cudaEventDestroy(event)
        return dict(zip(("to_device_ms", "compute_ms", "from_device_ms"), spent, strict=True))

    def _make_run_error(self) -> UserError:
        return UserError(f"{self._lib.title} failed on {self._path}: {first_error(self._lib.log, 'no reason given')}")

    def runtime_info(self) -> dict[str, object]:
        """Runtime, version, GPU, CUDA version of the driver, CUDA graphs, and the sha256 of the engine.

        `gpu_mb` is the GPU memory, in MiB, that loading the engine took (a benchmark's `peak_mb` is the host's).

        After the first query also its layers (see `inspect_layers`).
        """
        return {
            "runtime": self._name,
            "version": self._lib.version,
            "gpu": self._gpu.name,
            "sm": self._gpu.sm,
            "driver_cuda": self._gpu.driver,
            "cuda_graphs": self._graphs,
            **({"no_graph_reason": self._no_graph_reason} if self._no_graph_reason else {}),
            "kernels_from_cache": self._cache_used,
            "host_threads": self._threads,
            "engine_sha256": self._metadata.sha256,
            "batches": self._metadata.batches,
            "flags": self._metadata.flags,
            "precision": self._metadata.precision,
            "gpu_mb": self._gpu_mb,
            "layers": inspect_layers(self._lib.trt, self._engine, self._context) if self._batch else [],
        }

    def _drop_graph(self) -> None:
        if self._graph is not None:
            import_cuda_bindings().cudaGraphExecDestroy(self._graph)
            self._graph = None

    def close(self) -> None:
        """Free the engine and its memory, and write the kernel cache where there is one."""
        ran = self._cache is not None and self._batch > 0
        kernels = bytes(memoryview(self._cache.serialize())) if ran else None
        self._drop_graph()
        self._context = self._engine = self._runtime = self._cache = None  # an engine must outlive its context
        self._host_in = self._host_out = np.empty((0,), np.float32)  # views of memory that is freed next
        while self._resources:
            resource, free = self._resources.pop()
            free(resource)
        if kernels is not None and self._cache_path is not None:
            write_atomic(self._cache_path, kernels)
