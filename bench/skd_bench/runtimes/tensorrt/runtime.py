"""TensorRT and TensorRT-RTX as runtimes, for engines that were built for this GPU and this version.

TensorRT-RTX builds engines without a GPU (`skd_bench.runtimes.tensorrt.builder`), but running one needs a GPU. No
engine has been run yet. The tests check what `load` refuses; the conformance suite tests sessions on machines with a
GPU.
"""

from __future__ import annotations

from pathlib import Path

from skd_bench.errors import UserError
from skd_bench.files import sha256_file
from skd_bench.runtimes.base import CompileOptions, check_load_arguments
from skd_bench.runtimes.cuda import find_gpu, why_cuda_unavailable
from skd_bench.runtimes.tensorrt.builder import BuildOptions, build_engine
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
from skd_bench.runtimes.tensorrt.session import SessionOptions, TensorRTSession


class TensorRTRuntime:
    """TensorRT engines on NVIDIA GPUs.

    Args:
        name: "tensorrt" or "tensorrt-rtx".
        graphs: Whether to replay each query as a CUDA graph. Without, the runtime's name ends in "-nograph".
        allow_host_code: Whether to load version-compatible engines, which contain code for this machine's CPU.
        cache: A folder for the kernels that TensorRT-RTX compiles when an engine runs for the first time; None: every
            session compiles them again.

    Raises:
        UserError: The name is unknown.
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
        """The installed version, from its metadata; None where engines cannot run here."""
        return None if self.why_unavailable() else read_installed_version(self._flavour)

    def import_libraries(self) -> None:
        """Import TensorRT and the CUDA bindings."""
        import_library(self._flavour.name)
        find_gpu()

    def compile(self, onnx: Path, folder: Path, options: CompileOptions) -> Path:
        """Build an engine for batches of one clip: see `CompilingRuntime.compile`.

        All builds of a folder share one timing cache (TensorRT only), so that equal networks get equal kernels.
        """
        name = f"{sha256_file(onnx)[:16]}.{self._flavour.name}.{options.key}.engine"
        engine = folder / name
        if engine.is_file() and self.fits(engine):
            return engine
        is_rtx = self._flavour.name == "tensorrt-rtx"
        build = BuildOptions(
            batches=(1, 1, 1),
            workspace_bytes=options.workspace_mib << 20,
            tf32=options.tf32,
            level=options.level,
            timing_cache=None if is_rtx else folder / "timing.cache",
        )
        build_engine(onnx, engine, runtime=self._flavour.name, options=build)
        return engine

    def fits(self, engine: Path) -> bool:
        """Whether an engine of an earlier build is whole and fits the installed version and the GPU."""
        lib, gpu = import_library(self._flavour.name), find_gpu()
        machine = TargetMachine(self._flavour.name, lib.version, gpu.sm, gpu.driver)
        try:
            return why_incompatible(read_engine_metadata(engine), engine, machine) is None
        except UserError:
            return False

    def load(self, path: Path, *, threads: int) -> TensorRTSession:
        """Load an engine whose metadata fits this machine: see `Runtime.load`.

        Raises:
            UserError: See `Runtime.load`; or the engine file was changed, was built for another version or GPU, or
                contains host code; or there is no GPU. The message contains the command that builds an engine that
                fits.
        """
        path = check_load_arguments(path, threads)
        metadata = read_engine_metadata(path)
        lib = import_library(self._flavour.name)
        # The first check needs only the metadata, so that its error is also reported on a machine without a GPU.
        machine_as_built = TargetMachine(self._flavour.name, lib.version, metadata.sms[0] if metadata.sms else 0)
        if reason := why_incompatible(metadata, path, machine_as_built, allow_host_code=self._host_code):
            raise UserError(reason)
        try:
            local_gpu = find_gpu()
        except UserError as error:
            raise UserError(
                f"{path} is {metadata.state}, and cannot run here: {error}; copy it to a machine with such a GPU, "
                f"or build it there: {format_rebuild_command(metadata)}"
            ) from error
        machine = TargetMachine(self._flavour.name, lib.version, local_gpu.sm, local_gpu.driver)
        if reason := why_incompatible(metadata, path, machine, allow_host_code=self._host_code):
            raise UserError(reason)
        kernel_cache = self._cache / f"{metadata.sha256}.kernels" if self._cache is not None else None
        options = SessionOptions(self._graphs, self._host_code, kernel_cache)
        return TensorRTSession(lib, path, metadata, local_gpu, options, threads=threads)
