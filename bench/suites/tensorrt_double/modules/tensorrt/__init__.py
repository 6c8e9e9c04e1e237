"""Double of `tensorrt` 10: an engine holds the ONNX file and answers by ONNX Runtime on the CPU.

See `bench.suites.tensorrt_double.double`. It has the names that the house uses, with the behaviour that NVIDIA
documents: a builder that fails returns None and logs an error, a parser collects errors, and an engine's bytes differ
from build to build unless both builds use one timing cache.
"""

from __future__ import annotations

import ctypes
import hashlib
import json
import os
from enum import Enum, IntEnum
from typing import Any

import numpy as np
import onnxruntime
from cuda.bindings import runtime as cuda

__version__ = "10.13.3+double"
ANSWER_BITS = 14  # of mantissa in an engine's logits
_MAGIC = b"double of a TensorRT engine, not one\n"
_TYPES = {"tensor(float)": "float32", "tensor(float16)": "float16", "tensor(uint8)": "uint8"}


class DataType(Enum):
    """Types of a tensor."""

    FLOAT = "float32"
    HALF = "float16"
    INT8 = "int8"
    UINT8 = "uint8"


float32, float16, uint8 = DataType.FLOAT, DataType.HALF, DataType.UINT8


def nptype(dtype: DataType) -> Any:
    """The numpy type of a tensor's type."""
    return getattr(np, dtype.value)


class ILogger:
    """Base class of loggers."""

    class Severity(IntEnum):
        """Severities of a message."""

        INTERNAL_ERROR = 0
        ERROR = 1
        WARNING = 2

    def __init__(self) -> None:
        """Nothing to set up."""

    def log(self, severity: Any, message: str) -> None:
        """Receive a message."""


class IProgressMonitor:
    """Base class of progress monitors."""

    def __init__(self) -> None:
        """Nothing to set up."""


class NetworkDefinitionCreationFlag(IntEnum):
    """Kinds of networks."""

    EXPLICIT_BATCH = 0
    STRONGLY_TYPED = 1


class BuilderFlag(IntEnum):
    """Flags of a build."""

    TF32 = 7
    VERSION_COMPATIBLE = 16


class MemoryPoolType(IntEnum):
    """Memory pools."""

    WORKSPACE = 0


class ProfilingVerbosity(IntEnum):
    """How much of its layers an engine describes."""

    DETAILED = 2


class HardwareCompatibilityLevel(IntEnum):
    """Which GPUs an engine runs on."""

    NONE = 0
    AMPERE_PLUS = 1


class LayerInformationFormat(IntEnum):
    """Formats of the inspector."""

    JSON = 1


class _Tensor:
    def __init__(self, about: Any) -> None:
        self.name = about.name
        self.shape = tuple(n if isinstance(n, int) else -1 for n in about.shape)
        self.dtype = DataType(_TYPES[about.type])


class _Layer:
    """One node of the file, by the type of its output."""

    num_outputs = 1

    def __init__(self, dtype: DataType) -> None:
        self.dtype = dtype

    def get_output_type(self, index: int) -> DataType:
        return self.dtype


class _Network:
    def __init__(self) -> None:
        self.source = b""
        self.inputs: list[_Tensor] = []
        self.outputs: list[_Tensor] = []
        self.layers: list[_Layer] = []

    @property
    def num_layers(self) -> int:
        return len(self.layers)

    def get_layer(self, index: int) -> _Layer:
        return self.layers[index]

    @property
    def num_inputs(self) -> int:
        return len(self.inputs)

    @property
    def num_outputs(self) -> int:
        return len(self.outputs)

    def get_input(self, index: int) -> _Tensor:
        return self.inputs[index]

    def get_output(self, index: int) -> _Tensor:
        return self.outputs[index]


class OnnxParser:
    """Reads a file by loading it with ONNX Runtime."""

    num_errors = 0

    def __init__(self, network: _Network, logger: ILogger) -> None:
        self.network, self.logger = network, logger

    def parse(self, data: bytes) -> bool:
        try:
            session = _load_session(data)
        except Exception as error:
            self.logger.log(ILogger.Severity.ERROR, str(error).splitlines()[0])
            return False
        self.network.source = data
        self.network.inputs = [_Tensor(x) for x in session.get_inputs()]
        self.network.outputs = [_Tensor(x) for x in session.get_outputs()]
        self.network.layers = _list_layers(data)
        return True


class _TimingCache:
    def __init__(self, content: bytes) -> None:
        self.marks: dict[str, str] = json.loads(content or b"{}")

    def serialize(self) -> bytes:
        return json.dumps(self.marks).encode()


class _Profile:
    def set_shape(self, name: str, low: Any, best: Any, high: Any) -> None:
        self.batches = [int(low[0]), int(best[0]), int(high[0])]


class _BuilderConfig:
    profiling_verbosity: Any = None
    progress_monitor: Any = None
    hardware_compatibility_level: Any = HardwareCompatibilityLevel.NONE
    builder_optimization_level = 3

    def __init__(self) -> None:
        self.flags = {BuilderFlag.TF32}  # TensorRT's own default
        self.pools: dict[Any, int] = {}
        self.profile: _Profile | None = None
        self.cache: _TimingCache | None = None

    def set_memory_pool_limit(self, pool: Any, size: int) -> None:
        self.pools[pool] = size

    def set_flag(self, flag: BuilderFlag) -> None:
        self.flags.add(flag)

    def clear_flag(self, flag: BuilderFlag) -> None:
        self.flags.discard(flag)

    def get_flag(self, flag: BuilderFlag) -> bool:
        return flag in self.flags

    def add_optimization_profile(self, profile: _Profile) -> int:
        self.profile = profile
        return 0

    def create_timing_cache(self, content: bytes) -> _TimingCache:
        return _TimingCache(content)

    def set_timing_cache(self, cache: _TimingCache, ignore_mismatch: bool) -> bool:
        self.cache = cache
        return True


class Builder:
    """Builds engines of the double."""

    def __init__(self, logger: ILogger) -> None:
        if cuda.has_fault("no-builder"):
            logger.log(ILogger.Severity.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self.logger = logger

    def create_network(self, flags: int) -> _Network:
        if not flags & 1 << int(NetworkDefinitionCreationFlag.STRONGLY_TYPED):
            raise ValueError("the double builds strongly typed networks only")
        return _Network()

    def create_builder_config(self) -> _BuilderConfig:
        return _BuilderConfig()

    def create_optimization_profile(self) -> _Profile:
        return _Profile()

    def build_serialized_network(self, network: _Network, config: _BuilderConfig) -> bytes | None:
        if cuda.has_fault("build-memory"):
            self.logger.log(ILogger.Severity.ERROR, "Requested amount of GPU memory could not be allocated")
            return None
        monitor = config.progress_monitor
        monitor.phase_start("Building", None, 2)
        if not (monitor.step_complete("Building", 0) and monitor.step_complete("Building", 1)):
            return None
        monitor.phase_finish("Building")
        source = hashlib.sha256(network.source).hexdigest()
        marks = config.cache.marks if config.cache else {}
        mark = marks.setdefault(source, os.urandom(8).hex())  # tactics: equal for one timing cache, else by chance
        batches = config.profile.batches if config.profile else [network.inputs[0].shape[0]] * 3
        head = {
            "mark": mark,
            "batches": batches,
            "flags": sorted(config.flags),
            "level": config.builder_optimization_level,
        }
        return _MAGIC + json.dumps(head).encode() + b"\n" + network.source


class Runtime:
    """Loads engines of the double."""

    engine_host_code_allowed = False

    def __init__(self, logger: ILogger) -> None:
        if cuda.has_fault("no-runtime"):
            logger.log(ILogger.Severity.ERROR, "CUDA initialization failure with error: 35")
            raise TypeError("pybind11::init(): factory function returned nullptr")
        self.logger = logger

    def deserialize_cuda_engine(self, data: bytes) -> _Engine | None:
        if not data.startswith(_MAGIC) or cuda.has_fault("no-load"):
            self.logger.log(ILogger.Severity.ERROR, "Magic tag does not match")
            return None
        head, _, source = data.removeprefix(_MAGIC).partition(b"\n")
        overflows = cuda.has_fault("overflow") and b"Cast" in source  # only in half precision
        return _Engine(json.loads(head), _load_session(source), overflows)


class _Engine:
    def __init__(self, head: dict[str, Any], session: Any, overflows: bool) -> None:
        self.head, self.session, self.overflows = head, session, overflows

    def create_execution_context(self) -> _Context:
        return _Context(self)

    def create_engine_inspector(self) -> _Inspector:
        return _Inspector(self)


class _Context:
    def __init__(self, engine: _Engine) -> None:
        self.engine = engine
        self.addresses: dict[str, int] = {}
        self.shapes: dict[str, tuple[int, ...]] = {}

    def set_input_shape(self, name: str, shape: tuple[int, ...]) -> bool:
        self.shapes[name] = shape
        return self.engine.head["batches"][0] <= shape[0] <= self.engine.head["batches"][2]

    def set_tensor_address(self, name: str, address: int) -> bool:
        self.addresses[name] = address
        return True

    def execute_async_v3(self, stream: int) -> bool:
        return cuda.put_on_stream(stream, self._compute) == cuda.SUCCESS

    def _compute(self) -> int:
        session = self.engine.session
        [clip], [logits] = session.get_inputs(), session.get_outputs()
        x = _view(self.addresses[clip.name], self.shapes[clip.name], _TYPES[clip.type])
        [answer] = session.run(None, {clip.name: x})
        answer = round_answer(np.full_like(answer, np.inf) if self.engine.overflows else answer)
        ctypes.memmove(self.addresses[logits.name], answer.ctypes.data, answer.nbytes)
        return cuda.SUCCESS


class _Inspector:
    execution_context: Any = None

    def __init__(self, engine: _Engine) -> None:
        self.engine = engine

    def get_engine_information(self, kind: LayerInformationFormat) -> str:
        [clip], [logits] = self.engine.session.get_inputs(), self.engine.session.get_outputs()
        tensors = (
            {"Name": x.name, "Dimensions": list(x.shape), "Format/Datatype": "Row major linear FP32"}
            for x in (clip, logits)
        )
        read, written = tensors
        return json.dumps(
            {"Layers": [{"Name": "double", "LayerType": "double", "Inputs": [read], "Outputs": [written]}]}
        )


def round_answer(logits: np.ndarray[Any, Any]) -> np.ndarray[Any, Any]:
    """Logits with `ANSWER_BITS` bits of mantissa: the mark of an engine's answer."""
    bits = np.ascontiguousarray(logits, np.float32).view(np.uint32)
    drop = 23 - ANSWER_BITS
    return ((bits + (1 << (drop - 1))) >> drop << drop).astype(np.uint32).view(np.float32)


def _list_layers(source: bytes) -> list[_Layer]:
    """A layer for the file, and one for each type that its bytes name (a device has no package that reads nodes)."""
    types = [DataType.FLOAT] + [DataType.HALF] * (b"Cast" in source) + [DataType.INT8] * (b"QuantizeLinear" in source)
    return [_Layer(one) for one in types]


def _load_session(source: bytes) -> Any:
    options = onnxruntime.SessionOptions()
    options.intra_op_num_threads = 1
    options.log_severity_level = 4
    return onnxruntime.InferenceSession(source, options, providers=["CPUExecutionProvider"])


def _view(address: int, shape: tuple[int, ...], dtype: str) -> np.ndarray[Any, Any]:
    size = int(np.prod(shape)) * np.dtype(dtype).itemsize
    return np.ctypeslib.as_array((ctypes.c_uint8 * size).from_address(address)).view(dtype).reshape(shape)
