"""CUDA's runtime library through ctypes, with a compiled library that has its functions over host memory."""

from __future__ import annotations

import shutil
import subprocess
from importlib import util
from types import SimpleNamespace

import numpy as np
import pytest

from skd_bench.errors import UserError
from skd_bench.runtimes import cuda, cudart
from skd_bench.runtimes.base import CompileOptions
from skd_bench.runtimes.cuda import Gpu, call_cuda, find_gpu, why_cuda_unavailable
from skd_bench.runtimes.tensorrt.runtime import TensorRTRuntime

# Copies run at once, or are recorded while a stream is captured and run by the graph.
_SOURCE = """
#include <stdlib.h>
#include <string.h>
typedef struct { void *to; const void *from; size_t size; } Copy;
typedef struct { int count; Copy copies[8]; } Graph;
static Graph *captured;
static char names[2][32] = {"no error", "out of memory"};
const char *cudaGetErrorString(int code) { return names[code == 2]; }
int cudaGetDeviceCount(int *count) { *count = 1; return 0; }
int cudaDriverGetVersion(int *version) { *version = 12060; return 0; }
int cudaDeviceGetAttribute(int *value, int which, int device) { *value = which == 75 ? 8 : 7; return 0; }
int cudaGetDeviceProperties(void *properties, int device) { strcpy(properties, "Orin (stub)"); return 0; }
int cudaMemGetInfo(size_t *available, size_t *total) { *available = 3 << 20; *total = 8 << 20; return 0; }
int cudaMalloc(void **p, size_t size) { if (size > 1 << 30) return 2; *p = malloc(size); return 0; }
int cudaMallocHost(void **p, size_t size) { *p = malloc(size); return 0; }
int cudaFree(void *p) { free(p); return 0; }
int cudaFreeHost(void *p) { free(p); return 0; }
int cudaMemcpyAsync(void *to, const void *from, size_t size, int kind, void *stream) {
    if (captured) captured->copies[captured->count++] = (Copy){to, from, size}; else memcpy(to, from, size);
    return 0; }
int cudaStreamCreate(void **stream) { *stream = malloc(1); return 0; }
int cudaStreamDestroy(void *stream) { free(stream); return 0; }
int cudaStreamSynchronize(void *stream) { return 0; }
int cudaStreamBeginCapture(void *stream, int mode) { captured = calloc(1, sizeof(Graph)); return mode != 1; }
int cudaStreamEndCapture(void *stream, void **graph) { *graph = captured; captured = 0; return 0; }
int cudaGraphInstantiateWithFlags(void **made, void *graph, unsigned long long flags) {
    *made = memcpy(malloc(sizeof(Graph)), graph, sizeof(Graph)); return 0; }
int cudaGraphDestroy(void *graph) { free(graph); return 0; }
int cudaGraphExecDestroy(void *graph) { free(graph); return 0; }
int cudaGraphLaunch(void *graph, void *stream) {
    Graph *g = graph;
    for (int i = 0; i < g->count; i++) memcpy(g->copies[i].to, g->copies[i].from, g->copies[i].size);
    return 0; }
int cudaEventCreate(void **event) { *event = malloc(1); return 0; }
int cudaEventDestroy(void *event) { free(event); return 0; }
int cudaEventRecord(void *event, void *stream) { return 0; }
int cudaEventElapsedTime(float *ms, void *begin, void *end) { *ms = 1.5; return 0; }
"""


@pytest.fixture
def library(tmp_path, monkeypatch, tensorrt_double):
    """The library's path; cuda-bindings is not installed. (The double gives the driver, and an engine to run.)"""
    compiler = shutil.which("cc") or shutil.which("gcc")
    if compiler is None:
        pytest.skip("a C compiler is not on this machine")
    source, made = tmp_path / "cudart.c", tmp_path / "libcudart.so.12"
    source.write_text(_SOURCE)
    subprocess.run([compiler, "-shared", "-fPIC", "-o", made, source], check=True)

    def missing(name, *_):
        raise ModuleNotFoundError(f"No module named {name!r}")

    hidden = SimpleNamespace(find_spec=lambda name: None if name.startswith("cuda") else util.find_spec(name))
    monkeypatch.setattr(cuda, "importlib", SimpleNamespace(import_module=missing, util=hidden))
    monkeypatch.setattr(cudart, "_list_libraries", lambda: iter([str(made)]))
    cudart.load_cudart.cache_clear()
    yield str(made)
    cudart.load_cudart.cache_clear()


def test_the_gpu_is_found_without_bindings(library):
    assert why_cuda_unavailable() is None
    assert find_gpu() == Gpu("Orin (stub)", 87, 12060)
    runtime = cuda.import_cuda_bindings()
    assert runtime.path == library
    assert call_cuda(runtime.cudaMemGetInfo) == (3 << 20, 8 << 20)
    with pytest.raises(UserError, match=r"CUDA failed in cudaMalloc: out of memory \(error 2\)"):
        call_cuda(runtime.cudaMalloc, 1 << 31)


def test_an_engine_runs_without_bindings(library, tmp_path, network):
    source = network(tmp_path / "net.onnx")
    runtime = TensorRTRuntime("tensorrt", graphs=False)
    engine = runtime.compile(source, tmp_path / "engines", CompileOptions())
    clip = np.random.default_rng(0).standard_normal((1, 3, 4, 16, 16)).astype(np.float32)
    from skd_bench.runtimes import find_runtime

    expected = find_runtime("ort").load(source, threads=1).run(clip)
    session = runtime.load(engine, threads=1)
    np.testing.assert_allclose(session.run(clip), expected, rtol=1e-3, atol=1e-4)
    assert session.runtime_info()["gpu"] == "Orin (stub)"
    assert session.time_breakdown(clip) == {"to_device_ms": 1.5, "compute_ms": 1.5, "from_device_ms": 1.5}
    session.close()


def test_a_graph_is_captured_and_replayed(library):
    runtime = cuda.import_cuda_bindings()
    source, target = np.arange(4, dtype=np.uint8), np.zeros(4, np.uint8)
    stream = call_cuda(runtime.cudaStreamCreate)
    call_cuda(runtime.cudaStreamBeginCapture, stream, runtime.cudaStreamCaptureMode.cudaStreamCaptureModeThreadLocal)
    kind = runtime.cudaMemcpyKind.cudaMemcpyHostToDevice
    call_cuda(runtime.cudaMemcpyAsync, target.ctypes.data, source.ctypes.data, 4, kind, stream)
    graph = call_cuda(runtime.cudaStreamEndCapture, stream)
    made = call_cuda(runtime.cudaGraphInstantiate, graph, 0)
    assert not target.any()
    source += 5
    call_cuda(runtime.cudaGraphLaunch, made, stream)
    assert target.tolist() == [5, 6, 7, 8]
    for free, what in (("Graph", graph), ("GraphExec", made), ("Stream", stream)):
        call_cuda(getattr(runtime, f"cuda{free}Destroy"), what)


def test_a_library_that_is_missing_or_lacks_a_function_is_the_reason(library, monkeypatch, tmp_path):
    monkeypatch.setattr(cudart, "_list_libraries", lambda: iter(["libc.so.6"]))
    cudart.load_cudart.cache_clear()
    reason = why_cuda_unavailable()
    assert reason.startswith("cuda-bindings is not installed, and CUDA's runtime library (libcudart) does not load: ")
    assert reason.endswith("; pip install cuda-bindings")
    with pytest.raises(UserError, match=r"No module named 'cuda\.bindings\.runtime'.*libcudart"):
        cuda.import_cuda_bindings()


def test_libraries_of_pip_and_of_a_toolkit_are_found(tmp_path, monkeypatch):
    pip, toolkit = tmp_path / "nvidia/cuda_runtime/lib/libcudart.so.12", tmp_path / "cuda-12.6/lib64/libcudart.so.12"
    for file in (pip, toolkit):
        file.parent.mkdir(parents=True)
        file.touch()
    package = SimpleNamespace(submodule_search_locations=[str(tmp_path / "nvidia")])
    monkeypatch.setattr(cudart.importlib.util, "find_spec", lambda name: package)
    monkeypatch.setattr(cudart, "_TOOLKITS", (tmp_path,))
    names = list(cudart._list_libraries())
    assert names == ["libcudart.so.13", "libcudart.so.12", str(pip), str(toolkit)]
