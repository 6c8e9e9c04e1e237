"""Commands that convert a network or a bundle: ``export``, ``build``, ``bundle``."""

from __future__ import annotations

import json
import shlex
import sys
from pathlib import Path
from typing import Any

import click

from skd_bench.errors import UsageError
from skd_bench.untrusted.text import print_error, print_text
from skd_edge.cli.options import (
    AnyPath,
    ExistingFolder,
    clip_options,
    json_option,
    make_progress_counter,
    parse_json_object,
    parse_list,
    spec_options,
)

_ENGINE_PRECISIONS = ["fp32", "fp16", "bf16", "int8-trt", "fp8"]
_SPEC_OPTION_NAMES = ("family", "width", "depths", "temporal", "expand")
_CLIP_OPTION_NAMES = ("frames", "size", "sampling", "stride", "fit", "mean", "std")


@click.command("export")
@click.argument("source")
@click.option("--out", type=AnyPath, help="The bundle's folder.  [default: NAME-bundle]")
@click.option("--name", help="Name of the network.  [default: from SOURCE]")
@click.option("--recipe", help="Take spec, clip and licences from this recipe, ...")
@click.option("--network", "member", help="... from its network with this name.")
@spec_options
@clip_options
@click.option(
    "--classes",
    type=parse_list,
    metavar="A,B,...",
    help="Names in the order of the logits, or a file with one name per line.",
)
@click.option(
    "--clips", type=ExistingFolder, help="Real videos to compare and calibrate on; best with one folder per class."
)
@click.option("--precisions", type=parse_list, metavar="A,B,...", help="[default: fp32]")
@click.option(
    "--contract",
    type=click.Choice(["clip", "frames"]),
    help="Input: normalised clips, or uint8 frames.  [default: clip]",
)
@click.option("--litert", is_flag=True, help="Also a .tflite file for LiteRT.")
@click.option("--calibration", type=click.IntRange(1), help="Clips for INT8 calibration.  [default: 128]")
@click.option("--most", type=click.IntRange(2), help="Largest number of clips to read.  [default: 1024]")
@click.option("--arguments", type=parse_json_object, metavar="JSON", help="Arguments of the factory.")
@click.option("--input", "takes", type=click.Choice(["clip", "frames-first", "frames"]), help="[default: clip]")
@click.option("--weights", type=AnyPath, help="Tensors for the factory's network.")
@click.option("--allow-code", is_flag=True, help="Allow the factory to run; it is third-party code.")
@click.option("--dry-run", is_flag=True, help="Print what would be done, and stop.")
@json_option
def export_command(
    source: str, out: Path | None, recipe: str | None, as_json: bool, dry_run: bool, **options: Any
) -> None:
    """Export a network from elsewhere into a bundle, and compare its files with the network on real clips.

    SOURCE is a checkpoint of a built-in family (with its spec from options or a recipe), or a factory
    (package.module:callable).
    """
    from skd_edge.pipeline.export_model.export_model import export_model
    from skd_edge.pipeline.export_model.request import make_export_request
    from skd_edge.recipe.loader import load_recipe

    spec, clip = ({key: options.pop(key) for key in keys} for keys in (_SPEC_OPTION_NAMES, _CLIP_OPTION_NAMES))
    request = make_export_request(
        source, recipe=load_recipe(recipe) if recipe else None, network=spec, clip=clip, **options
    )
    on_stage = (lambda text: print_error(f"{text} ...")) if sys.stderr.isatty() else None
    bundle_folder = out or Path(f"{request.name}-bundle")
    result = export_model(
        request, bundle_folder, dry_run=dry_run, on_stage=on_stage, progress=make_progress_counter("decoded")
    )
    print_text(json.dumps(result.to_json(), indent=2) if as_json else result.to_text())


@click.command("build")
@click.argument("source", type=AnyPath)
@click.option("--runtime", type=click.Choice(["tensorrt-rtx", "tensorrt"]), default="tensorrt-rtx", show_default=True)
@click.option("--sm", "sms", multiple=True, type=int, help="Compute capability of the target GPU, e.g. 86; repeatable.")
@click.option("--precision", type=click.Choice(_ENGINE_PRECISIONS), default="fp32", show_default=True)
@click.option("--batch", type=click.IntRange(1, 4096), default=8, show_default=True, help="The largest batch.")
@click.option(
    "--workspace", type=click.IntRange(1), default=1024, show_default=True, help="Largest workspace of a layer, MiB."
)
@click.option("--timing-cache", type=AnyPath, metavar="FILE", help="Store the builder's timings in FILE (tensorrt).")
@click.option("--ampere-plus", is_flag=True, help="One engine for all GPUs since Ampere; slower (tensorrt).")
@click.option(
    "--builds",
    type=click.IntRange(1, 20),
    default=1,
    show_default=True,
    help="Build each engine n times, to show the variation.",
)
@click.option("--out", type=AnyPath, help="The folder for the engines.  [default: SOURCE-engines]")
@json_option
def build_command(
    source: Path,
    batch: int,
    workspace: int,
    timing_cache: Path | None,
    ampere_plus: bool,
    out: Path | None,
    as_json: bool,
    **builder_options: Any,
) -> None:
    """Build TensorRT engines from SOURCE, a bundle or an ONNX file. With --sm no GPU is needed.

    Without --sm, engines are built for the GPU of this machine. An engine that no GPU has run is reported as "built,
    not run": its predictions were not checked.
    """
    from skd_bench.runtimes.tensorrt.builder import BuildOptions
    from skd_export.targets.tensorrt import build_engines

    options = BuildOptions((1, 1, batch), workspace << 20, timing_cache=timing_cache, ampere_plus=ampere_plus)
    made = build_engines(
        source, out, options=options, progress=make_progress_counter("builder's step"), **builder_options
    )
    print_text(json.dumps(made.to_json(), indent=2) if as_json else made.to_text())


@click.command("bundle")
@click.argument("bundle", type=ExistingFolder)
@click.option("--triton", type=AnyPath, metavar="OUT", help="Write a Triton model repository there.")
@click.option("--with-engines", type=AnyPath, metavar="OUT", help="Write the bundle with its measured engines there.")
@click.option("--batch", type=click.IntRange(1, 4096), default=8, show_default=True, help="Largest batch of a query.")
@click.option("--engine", "engines", type=AnyPath, multiple=True, help="A TensorRT engine of it; repeatable.")
def bundle_command(
    bundle: Path, triton: Path | None, with_engines: Path | None, batch: int, engines: tuple[Path, ...]
) -> None:
    """Write a BUNDLE with engines, or in the layout of a server; the bundle itself is not changed.

    --with-engines takes the engines that the run measured, from RUN/engines beside RUN/bundle, or those of --engine.
    """
    if (triton is None) == (with_engines is None):
        raise UsageError("say what to write: either --triton OUT or --with-engines OUT")
    if with_engines is not None:
        from skd_export.bundle.engines import write_bundle_with_engines

        added = write_bundle_with_engines(bundle, with_engines, engines)
        print_text(f"wrote {with_engines} with {', '.join(e.file for e in added)}; sign it if the bundle was signed")
        return
    assert triton is not None
    from skd_export.targets.triton import write_triton_repository

    names = write_triton_repository(bundle, triton, largest_batch=batch, engines=engines)
    print_text(f"wrote {triton}: {', '.join(names)}; tritonserver --model-repository={shlex.quote(str(triton))}")
