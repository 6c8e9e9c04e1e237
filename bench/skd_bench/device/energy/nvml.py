"""The energy counter of an NVIDIA GPU."""

from __future__ import annotations

from skd_bench.device.nvml import LIBRARY, NvmlGpu, find_gpu_in_use, open_nvml_gpu


class NvmlCounter:
    """The energy counter of one GPU: its whole board.

    Args:
        gpu: The GPU.

    Raises:
        OSError: It has no energy counter.
    """

    def __init__(self, gpu: NvmlGpu) -> None:
        self._gpu = gpu
        self.rail = f"GPU {gpu.name} board (NVML)"
        self._last = gpu.read_millijoules()

    def read_joules_delta(self) -> float:
        """Joules since the last call."""
        now = self._gpu.read_millijoules()
        step, self._last = now - self._last, now
        return step * 1e-3


def find_nvml_counters(library: str = LIBRARY) -> list[NvmlCounter] | str:
    """Find the energy counter of the GPU in use: the first of ``CUDA_VISIBLE_DEVICES``, or GPU 0.

    Args:
        library: NVML's name or path.

    Returns:
        The counter, or the reason why there is none.
    """
    if (gpu := find_gpu_in_use()) is not None and gpu.startswith("MIG"):
        return f"a part of a GPU has no energy counter of its own ({gpu})"
    opened = open_nvml_gpu(library)
    if isinstance(opened, str):
        return f"no GPU energy counter ({opened})"
    try:
        return [NvmlCounter(opened)]
    except (OSError, AttributeError) as error:
        return f"no GPU energy counter (NVML: {error})"
