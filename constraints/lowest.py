"""Print the lowest versions that pyproject.toml admits, as pip's constraints.

python constraints/lowest.py ort > lowest.txt      (what every install needs, and the extras that are named)
"""

from __future__ import annotations

import re
import sys
import tomllib
from pathlib import Path

BOUND = re.compile(r"([A-Za-z0-9._-]+)(?:\[[^]]*\])?\s*(?:>=|==)\s*([0-9][0-9.]*)")


def lowest(extras: list[str]) -> dict[str, str]:
    """The lower bound of each requirement, by its name.

    Raises:
        KeyError: There is no such extra.
    """
    project = tomllib.loads((Path(__file__).parents[1] / "pyproject.toml").read_text(encoding="utf-8"))["project"]
    needs = [*project["dependencies"], *(need for e in extras for need in project["optional-dependencies"][e])]
    return {found[1]: found[2].rstrip(".") for need in needs if (found := BOUND.match(need))}


if __name__ == "__main__":
    print("\n".join(f"{name}=={bound}" for name, bound in lowest(sys.argv[1:]).items()))
