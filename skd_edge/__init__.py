"""skd-edge: staged knowledge distillation of video classifiers for edge devices (after arXiv 2307.05201).

The Python API, each name imported when it is first used:

- `load_recipe`: read and check a recipe.
- `plan`: what `compress` would do: jobs, seconds, disk; nothing is written.
- `compress`: run a recipe from its clips to its report; `RunOptions` says how.
- `cross_validate`: a run for each fold of whole groups, and figures over all folds.
- `reselect`: choose again among what a run measured, by another rule.
- `Bundle`: open the bundle of a run, check its files, classify videos; needs no torch.
- `UserError`: what all of them raise for a problem that the caller can solve.

Example::

    from pathlib import Path
    from skd_edge import Bundle, compress, load_recipe

    run = compress(load_recipe("quickstart"), Path("runs/quickstart"))
    print(Bundle(run / "bundle").classes)
"""

from __future__ import annotations

from importlib import import_module
from typing import TYPE_CHECKING

from skd_edge.version import VERSION as __version__

if TYPE_CHECKING:
    from skd_bench.errors import UserError
    from skd_bench.inference.bundle import Bundle
    from skd_edge.pipeline.compress import compress
    from skd_edge.pipeline.context import RunOptions
    from skd_edge.pipeline.crossval.crossval import cross_validate
    from skd_edge.pipeline.plan import plan
    from skd_edge.pipeline.reselect import reselect
    from skd_edge.recipe.loader import load_recipe

__all__ = [
    "Bundle",
    "RunOptions",
    "UserError",
    "__version__",
    "compress",
    "cross_validate",
    "load_recipe",
    "plan",
    "reselect",
]

_MODULES = {
    "Bundle": "skd_bench.inference.bundle",
    "RunOptions": "skd_edge.pipeline.context",
    "UserError": "skd_bench.errors",
    "compress": "skd_edge.pipeline.compress",
    "cross_validate": "skd_edge.pipeline.crossval.crossval",
    "load_recipe": "skd_edge.recipe.loader",
    "plan": "skd_edge.pipeline.plan",
    "reselect": "skd_edge.pipeline.reselect",
}


def __getattr__(name: str) -> object:
    """Import a name of the API when it is first used: torch is not needed to load a recipe, nor to open a bundle."""
    if name not in _MODULES:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    value: object = getattr(import_module(_MODULES[name]), name)
    globals()[name] = value  # the next access does not come here
    return value


def __dir__() -> list[str]:
    """The names of the API, and what the module holds."""
    return sorted({*globals(), *__all__})
