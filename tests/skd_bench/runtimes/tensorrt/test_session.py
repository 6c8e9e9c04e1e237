"""A TensorRT session on a machine without a GPU; `test_conformance.py` tests sessions where there is one."""

import pytest

from skd_bench.errors import UserError
from skd_bench.runtimes.cuda import Gpu, why_cuda_unavailable
from skd_bench.runtimes.tensorrt.engine_file import read_engine_metadata
from skd_bench.runtimes.tensorrt.library import FLAVOURS, find_installed_modules, import_library
from skd_bench.runtimes.tensorrt.session import SessionOptions, TensorRTSession

RTX = "tensorrt-rtx"
needs_rtx = pytest.mark.skipif(
    find_installed_modules(FLAVOURS[RTX]) is None, reason="TensorRT-RTX does not install on this machine"
)
no_gpu = pytest.mark.skipif(why_cuda_unavailable() is None, reason="a GPU is here to build for")


@needs_rtx
@no_gpu
def test_a_loading_error_of_the_library_is_reported(built_engine):
    """The metadata fits, but the engine cannot be loaded: the error is one sentence, and all resources are freed."""
    with pytest.raises(UserError, match=r"TensorRT-RTX .* cannot load .*net\.engine: .*(?i:cuda)"):
        TensorRTSession(
            import_library(RTX),
            built_engine,
            read_engine_metadata(built_engine),
            Gpu("none", 86, 0),
            SessionOptions(),
            threads=1,
        )
