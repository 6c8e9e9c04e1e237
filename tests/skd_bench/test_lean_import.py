import os
import subprocess
import sys
from pathlib import Path

import skd_bench

HOME = Path(skd_bench.__file__).parent
MODULES = sorted(
    ".".join(("skd_bench", *p.relative_to(HOME).with_suffix("").parts)).removesuffix(".__init__")
    for p in HOME.rglob("*.py")
)
HEAVY = (
    "torch",
    "onnx",
    "onnxruntime",
    "av",
    "pydantic",
    "scipy",
    "sklearn",
    "skd_edge",
    "skd_export",
    "click",
    "rich",
)


def test_importing_every_module_loads_no_heavy_package():
    assert "skd_bench.runtimes.ort" in MODULES
    assert len(MODULES) >= 15
    code = (
        f"import sys, importlib\nfor name in {MODULES!r}: importlib.import_module(name)\n"
        f"print(sorted(set({HEAVY!r}) & set(sys.modules)))"
    )
    environment = {**os.environ, "PYTHONPATH": str(HOME.parent)}
    done = subprocess.run([sys.executable, "-c", code], env=environment, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
