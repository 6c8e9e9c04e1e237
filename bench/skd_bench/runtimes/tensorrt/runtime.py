"""TensorRT and TensorRT-RTX as runtimes: engines that were built for this GPU and this version, and nothing else.

Building needs no GPU with TensorRT-RTX (`tensorrt_build`); running does. No GPU has run an engine here: what `load`
refuses is tested, what a loaded session does is held to the conformance suite only where a GPU is.
"""

from __future__ import annotations

from pathlib import Path

from skd_bench.errors import UserError
from skd_bench.runtimes.base import check_load_arguments
from skd_bench.runtimes.cuda import find_gpu, why_cuda_unavailable
from skd_bench.runtimes.tensorrt.engine_file import (
    TargetMachine,
    format_rebuild_command,
    read_engine_metadata,
    why_incompatible,
)
from skd_bench.runtimes.tensorrt.library import (
    find_flavour,
    find_installed_modules,
    import_library,
    read_installed_version,
)
from skd_bench.runtimes.tensorrt.session import TensorRTSession


class TensorRTRuntime:
    """Engines on NVIDIA's GPUs.

    Args:
        name: "tensorrt" or "tensorrt-rtx".
        graphs: Replay each query as a CUDA graph; without, the runtime's name ends in "-nograph".
        allow_host_code: Load version-compatible engines too, which embed code that runs on this machine's CPU.
        cache: A folder that keeps the kernels TensorRT-RTX compiles when an engine first runs; None: each session
            compiles them, and a cold start is cold.
    """

    def __init__(
        self, name: str, *, graphs: bool = True, allow_host_code: bool = False, cache: Path | None = None
    ) -> None:
        self.name = name if graphs else f"{name}-nograph"
        self._flavour = find_flavour(name)
        self._graphs, self._host_code, self._cache = graphs, allow_host_code, cache

    def why_unavailable(self) -> str | None:
        """Why no engine can run here; None when one can. Imports nothing."""
        if find_installed_modules(self._flavour) is None:
            return f"{self._flavour.title} is not installed; {self._flavour.pip}"
        reason = why_cuda_unavailable()
        if reason is None:
            return None
        return (
            f"{self._flavour.title} {read_installed_version(self._flavour)} is installed and cannot run here: {reason}"
        )

    def version(self) -> str | None:
        """The installed version, from its metadata; None where it is not installed or has no GPU to run on."""
        return None if self.why_unavailable() else read_installed_version(self._flavour)

    def import_libraries(self) -> None:
        """Import TensorRT and CUDA's bindings."""
        import_library(self._flavour.name)
        find_gpu()

    def load(self, path: Path, *, threads: int) -> TensorRTSession:
        """Load an engine whose note fits this machine: see `base.Runtime.load`.

        Raises:
            UserError: As there; or the engine's bytes, version or GPU are others than here, or it embeds host code, or
                there is no GPU. Says which, and the command that builds one that fits.
        """
        path = check_load_arguments(path, threads)
        metadata = read_engine_metadata(path)
        lib = import_library(self._flavour.name)
        # What the note alone tells is told first: it holds on a machine without a GPU too.
        machine_as_built = TargetMachine(self._flavour.name, lib.version, metadata.sms[0] if metadata.sms else 0)
        if reason := why_incompatible(metadata, path, machine_as_built, allow_host_code=self._host_code):
            raise UserError(reason)
        try:
            local_gpu = find_gpu()
        except UserError as error:
            raise UserError(
                f"{path} is {metadata.state}, and cannot run here: {error}; copy it to a machine with such a GPU, or build "
                f"it there: {format_rebuild_command(metadata)}"
            ) from error
        machine = TargetMachine(self._flavour.name, lib.version, local_gpu.sm, local_gpu.driver)
        if reason := why_incompatible(metadata, path, machine, allow_host_code=self._host_code):
            raise UserError(reason)
        kernel_cache = self._cache / f"{metadata.sha256}.kernels" if self._cache is not None else None
        return TensorRTSession(
            lib,
            path,
            metadata,
            local_gpu,
            threads=threads,
            graphs=self._graphs,
            host_code=self._host_code,
            cache=kernel_cache,
        )
