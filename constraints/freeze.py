"""Write down the versions that are installed here and passed the tests together: `make constraints` runs it.

    .venv/bin/python constraints/freeze.py      (writes constraints/python3.12.txt, by the Python that runs it)

A local label (torch's `+cpu`) is left off, so that any build of that version fits. What a CUDA build of torch brings is
left to torch, since each of its builds pins other versions.
"""

from __future__ import annotations

import datetime
import platform
import re
import sys
from importlib import metadata
from pathlib import Path

LEFT_OUT = {"skd-edge", "pip", "setuptools", "wheel", "cuda-toolkit", "triton"}


def installed() -> dict[str, str]:
    """Version of every distribution that is to be written down, by its normalised name."""
    found = {_normalised(d.metadata["Name"]): d.version.partition("+")[0] for d in metadata.distributions()}
    return {name: found[name] for name in sorted(found) if name not in LEFT_OUT and not name.startswith("nvidia-")}


def main() -> None:
    """Write the file of this Python, beside this script."""
    lines = [f"{name}=={version}" for name, version in installed().items()]
    today = datetime.datetime.now(datetime.UTC).date()
    head = f"# Tested together on Python {platform.python_version()}, {platform.platform()}, {today}: make constraints"
    target = Path(__file__).with_name(f"python{sys.version_info.major}.{sys.version_info.minor}.txt")
    target.write_text("\n".join([head, *lines, ""]), encoding="utf-8")
    print(f"wrote {target}: {len(lines)} versions")


def _normalised(name: str) -> str:
    return re.sub(r"[-_.]+", "-", name).lower()


if __name__ == "__main__":
    main()
