"""The command line: each command reads its options and calls one library function.

Nothing heavy is imported before a command runs, so that ``--help`` is quick and needs no torch.
"""

from __future__ import annotations

import json
import shlex
import sys
import time
from collections.abc import Callable, Sequence
from contextlib import suppress
from pathlib import Path
from typing import Any, NoReturn

import click

from skd_bench.errors import UserError
from skd_edge.cli.exit_codes import EXIT_DONE, EXIT_FAILED, run_command_line

EPILOG = """\b
Exit codes: 0 done, 1 failed, 2 the recipe or the command line is wrong,
75 paused (Ctrl-C or SIGTERM): the same command goes on where it stopped.

\b
Shell completion, for bash (zsh and fish likewise):
  eval "$(_SKD_EDGE_COMPLETE=bash_source skd-edge)"
"""

ExistingFolder = click.Path(exists=True, file_okay=False, path_type=Path)
ExistingPath = click.Path(exists=True, path_type=Path)
AnyPath = click.Path(path_type=Path)
set_option = click.option("--set", "sets", multiple=True, metavar="KEY=VALUE", help="Change a setting, e.g. seed=1.")
code_option = click.option("--allow-code", is_flag=True, help="Let the recipe's teacher.factory run: somebody's code.")
json_option = click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")


@click.group(epilog=EPILOG, context_settings={"help_option_names": ["-h", "--help"], "max_content_width": 100})
@click.version_option(package_name="skd-edge")
def cli() -> None:
    """Small video classifiers for edge devices, distilled from weak labels and measured on the target.

    A recipe goes in; a folder of engines that were measured, and a report that says which one to ship and why, comes
    out. Start with: skd-edge init FOLDER_OF_VIDEOS, then: skd-edge compress recipe.yaml
    """


@cli.command()
@click.argument("folder", type=AnyPath)
@click.option("--out", type=AnyPath, default=Path("recipe.yaml"), show_default=True, help="Where the recipe goes.")
@click.option("--force", is_flag=True, help="Overwrite a recipe that is there.")
def init(folder: Path, out: Path, force: bool) -> None:
    """Write a commented recipe for a FOLDER of videos."""
    from skd_edge.cli.init_recipe import write_recipe

    click.echo(write_recipe(folder, out, force=force).to_text())
    click.echo(f"wrote {out}; next: skd-edge plan {shlex.quote(str(out))}")


@cli.command()
@click.argument("recipe")
@set_option
def validate(recipe: str, sets: tuple[str, ...]) -> None:
    """Check a RECIPE without reading any data: every mistake, with its line."""
    from skd_edge.recipe.loader import load_recipe

    checked = load_recipe(recipe, sets)
    click.echo(f"{recipe}: ok ({checked.name}: {len(checked.cascade_paths)} paths x {len(checked.students)} students)")


@cli.command()
@click.argument("recipe")
@click.option("--out", type=AnyPath, help="The run folder whose cached jobs count.  [default: runs/NAME]")
@set_option
@code_option
@click.option("--hourly", type=click.FloatRange(0), metavar="PRICE", help="What an hour of this machine costs.")
def plan(recipe: str, out: Path | None, sets: tuple[str, ...], allow_code: bool, hourly: float | None) -> None:
    """Show what compress would do: the tree of jobs, what is cached, time, disk and cost."""
    from skd_edge.recipe.loader import load_recipe

    loaded = load_recipe(recipe, sets)
    from skd_edge.pipeline.compress import plan as make_plan

    click.echo(make_plan(loaded, out or Path("runs", loaded.name), allow_code=allow_code).to_text(hourly))


@cli.command()
@click.argument("recipe")
@click.option("--out", type=AnyPath, help="The run folder; a run that is there goes on.  [default: runs/NAME]")
@set_option
@code_option
@click.option(
    "--engine",
    type=click.Choice(("local", "ray")),
    default="local",
    show_default=True,
    help="Where jobs are trained: here, or on the Ray cluster of RAY_ADDRESS (without: one started here).",
)
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads that train one job.  [default: torch's choice]")
@click.option(
    "--measurements",
    multiple=True,
    type=AnyPath,
    metavar="RESULT.json",
    help="What a pack found on a device without a link, instead of measuring; may be given again.",
)
@click.option("--python", default="python3", show_default=True, help="The Python of the recipe's bench.host.")
@click.option("--dry-run", is_flag=True, help="Print the plan and stop.")
@click.pass_obj
def compress(
    state: dict[str, Path], /, recipe: str, out: Path | None, sets: tuple[str, ...], dry_run: bool, **options: Any
) -> None:
    """Weak labels and a teacher in, measured engines and a report out.

    RECIPE is a YAML file, or the name of a recipe that ships (quickstart). Stopped on the way, the same command goes
    on where it stopped.
    """
    from skd_edge.recipe.loader import load_recipe

    loaded = load_recipe(recipe, sets)
    state["run"] = out or Path("runs", loaded.name)
    from rich.console import Console

    from skd_edge.pipeline import compress as pipeline

    if dry_run:
        return click.echo(pipeline.plan(loaded, state["run"], allow_code=options["allow_code"]).to_text())
    return click.echo(f"run: {pipeline.compress(loaded, state['run'], console=Console(stderr=True), **options)}")


@cli.command()
@click.argument("run", type=ExistingFolder)
@set_option
@code_option
@click.option("--confirm", is_flag=True, help="Make it the run's choice: bundle, report, a look at the test set.")
def choose(run: Path, sets: tuple[str, ...], confirm: bool, allow_code: bool) -> None:
    """Choose again among what a RUN measured, e.g. --set "choice.budget=3 ms"; nothing is trained or measured.

    The test set is left alone, unless the new choice is confirmed.
    """
    from rich.console import Console

    from skd_edge.pipeline.reselect import reselect

    console = Console(stderr=True)
    decision = reselect(run, sets, confirm=confirm, allow_code=allow_code, console=console)
    click.echo(f"{decision.chosen or 'nothing'}: {decision.why}")
    _exit_with(EXIT_DONE if decision.chosen else EXIT_FAILED)


@cli.command()
@click.argument("bundle", type=ExistingFolder)
@json_option
@click.option("--processes", type=click.IntRange(1, 50), default=5, show_default=True, help="Fresh processes.")
@click.option("--queries", type=click.IntRange(20, 100_000), default=240, show_default=True, help="Queries in each.")
@click.option("--threads", type=click.IntRange(1, 256), default=1, show_default=True, help="Threads of the runtime.")
@click.option("--host", metavar="USER@DEVICE", help="Measure on another machine, through ssh.")
@click.option("--python", default="python3", show_default=True, help="The Python of --host.")
@click.option("--keep", is_flag=True, help="Leave the temporary folder on --host.")
@click.option("--pack", type=AnyPath, metavar="FILE", help="Measure nothing: write FILE, to carry to a device.")
@click.option("--runtime", "runtimes", multiple=True, metavar="NAME", help="Also on this runtime (doctor lists them).")
@click.option("--scenario", "scenarios", multiple=True, help="MLPerf's: single-stream, multi-stream or offline.")
@click.option("--batches", default="", metavar="1,2,4", help="Clips in a query: a row each.")
@click.option("--bound", type=float, metavar="MS", help="Find the batch of the highest throughput within MS.")
@click.option("--engine", "engines", multiple=True, type=AnyPath, help="Also an engine of skd-edge build.")
@click.option("--out", type=AnyPath, metavar="FILE.json", help="Write the result, and every sample as FILE.npz.")
@click.option("--dry-run", is_flag=True, help="Say what would be measured, and stop.")
def bench(bundle: Path, as_json: bool, pack: Path | None, **options: Any) -> None:
    """Measure a BUNDLE's files on this machine (the same as python -m skd_bench), or on another one.

    A device without a link runs what --pack wrote: python FILE. It needs numpy and a runtime, no install.
    """
    from skd_bench.__main__ import format_benchmark_table
    from skd_bench.asked import bench_command

    result = bench_command(bundle, pack=pack, progress=_make_progress_counter("measuring, process"), **options)
    if isinstance(result, str):
        return click.echo(result)
    return click.echo(json.dumps(result, indent=2) if as_json else format_benchmark_table(result))


def _parse_list(text: str) -> tuple[str, ...]:
    """A,B,C, or the lines of a file."""
    with suppress(OSError, ValueError):
        if Path(text).is_file():
            return tuple(line.strip() for line in Path(text).read_text("utf-8").splitlines() if line.strip())
    return tuple(part.strip() for part in text.split(",") if part.strip())


def _parse_json_object(text: str) -> dict[str, Any]:
    with suppress(ValueError):
        if isinstance(found := json.loads(text), dict):
            return found
    raise click.BadParameter(f'{text!r} is no JSON object, such as {{"classes": 5}}')


def _combine_options(*options: Callable[[Any], Any]) -> Callable[[Any], Any]:
    def apply_options(command: Any) -> Any:
        for option in reversed(options):
            command = option(command)
        return command

    return apply_options


_clip_options = _combine_options(
    click.option("--frames", type=int, help="Frames that the network takes.  [default: 8]"),
    click.option("--size", type=int, help="Height and width that it takes.  [default: 32]"),
    click.option("--sampling", type=click.Choice(["uniform", "dense"])),
    click.option("--stride", type=int, help="Frames between two samples (dense)."),
    click.option("--fit", type=click.Choice(["crop", "stretch", "pad"])),
    click.option("--mean", type=float, nargs=3, help="Subtracted from red, green, blue (0 to 1)."),
    click.option("--std", type=float, nargs=3, help="What they are divided by."),
)
_spec_options = _combine_options(
    click.option("--family", type=click.Choice(["resnet", "mobile"]), help="Of a checkpoint.  [default: mobile]"),
    click.option("--width", type=int, help="Channels of its first substage.  [default: 16]"),
    click.option("--depths", type=_parse_list, metavar="A,B,...", help="Blocks of its substages.  [default: 1,1,1,1]"),
    click.option("--temporal", type=click.Choice(["none", "shift", "conv"]), help="[default: conv]"),
    click.option("--expand", type=int, help="Expansion of the mobile family.  [default: 2]"),
)
_SPEC_OPTION_NAMES, _CLIP_OPTION_NAMES = (
    ("family", "width", "depths", "temporal", "expand"),
    ("frames", "size", "sampling", "stride", "fit", "mean", "std"),
)


@cli.command("export")
@click.argument("source")
@click.option("--out", type=AnyPath, help="The bundle's folder.  [default: NAME-bundle]")
@click.option("--name", help="Of the network.  [default: SOURCE's]")
@click.option("--recipe", help="Take spec, clip and licences from this recipe ...")
@click.option("--network", "member", help="... where the network has this name.")
@_spec_options
@_clip_options
@click.option(
    "--classes",
    type=_parse_list,
    metavar="A,B,...",
    help="Names in the order of the logits, or a file with one a line.",
)
@click.option("--clips", type=ExistingFolder, help="Real videos, best one folder a class: to compare and to calibrate.")
@click.option("--precisions", type=_parse_list, metavar="A,B,...", help="[default: fp32]")
@click.option("--contract", type=click.Choice(["clip", "frames"]), help="Normalised clips, or uint8.  [default: clip]")
@click.option("--litert", is_flag=True, help="Also a .tflite file for LiteRT.")
@click.option("--calibration", type=click.IntRange(1), help="Clips that INT8 calibration sees.  [default: 128]")
@click.option("--most", type=click.IntRange(2), help="Clips read in all.  [default: 1024]")
@click.option("--arguments", type=_parse_json_object, metavar="JSON", help="Of the factory.")
@click.option("--input", "takes", type=click.Choice(["clip", "frames-first", "frames"]), help="[default: clip]")
@click.option("--weights", type=AnyPath, help="Tensors for the factory's network.")
@click.option("--allow-code", is_flag=True, help="Let the factory run: somebody's code.")
@click.option("--dry-run", is_flag=True, help="Say what would be done and stop.")
@json_option
def export_command(
    source: str, out: Path | None, recipe: str | None, as_json: bool, dry_run: bool, **options: Any
) -> None:
    """Export a network that was not made here into a bundle, compared with it on real clips.

    SOURCE is a checkpoint of the own family (its spec by options or from a recipe), or a factory,
    package.module:callable.
    """
    from skd_edge.pipeline.export_model.export_model import export_model, make_export_request
    from skd_edge.recipe.loader import load_recipe

    spec, clip = ({key: options.pop(key) for key in keys} for keys in (_SPEC_OPTION_NAMES, _CLIP_OPTION_NAMES))
    request = make_export_request(
        source, recipe=load_recipe(recipe) if recipe else None, network=spec, clip=clip, **options
    )
    on_stage = (lambda text: click.echo(f"{text} ...", err=True)) if sys.stderr.isatty() else None
    bundle_folder = out or Path(f"{request.name}-bundle")
    result = export_model(
        request, bundle_folder, dry_run=dry_run, on_stage=on_stage, progress=_make_progress_counter("decoded")
    )
    click.echo(json.dumps(result.to_json(), indent=2) if as_json else result.to_text())


@cli.command("build")
@click.argument("source", type=AnyPath)
@click.option("--runtime", type=click.Choice(["tensorrt-rtx", "tensorrt"]), default="tensorrt-rtx", show_default=True)
@click.option("--sm", "sms", multiple=True, type=int, help="For GPUs of this compute capability, e.g. 86; repeatable.")
@click.option("--precision", type=click.Choice(["fp32", "fp16"]), default="fp32", show_default=True)
@click.option("--batch", type=click.IntRange(1, 4096), default=8, show_default=True, help="The largest batch.")
@click.option("--workspace", type=click.IntRange(1), default=1024, show_default=True, help="MiB a layer may take.")
@click.option("--timing-cache", type=AnyPath, metavar="FILE", help="Keep the builder's timings there (tensorrt).")
@click.option("--ampere-plus", is_flag=True, help="One engine for every GPU from Ampere on, slower (tensorrt).")
@click.option("--builds", type=click.IntRange(1, 20), default=1, show_default=True, help="Build each so often: spread.")
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
    """Build TensorRT engines from a bundle or an ONNX file (SOURCE); a GPU is not needed with --sm.

    An engine that no GPU has run is "built, not run": nothing is known of its answers. Without --sm: for the GPU here.
    """
    from skd_bench.runtimes.tensorrt.builder import BuildOptions
    from skd_export.targets.tensorrt import build_engines

    options = BuildOptions((1, 1, batch), workspace << 20, timing_cache=timing_cache, ampere_plus=ampere_plus)
    made = build_engines(
        source, out, options=options, progress=_make_progress_counter("builder's step"), **builder_options
    )
    click.echo(json.dumps(made.to_json(), indent=2) if as_json else made.to_text())


@cli.command()
@click.argument("bundle", type=ExistingFolder)
@click.argument("videos", nargs=-1, required=True, type=AnyPath)
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="Classes shown for each video.")
@json_option
@click.option("--stream", is_flag=True, help="Frame by frame, of a long video or a camera (/dev/video0).")
@click.option("--every", type=click.IntRange(1), help="Look at each so many-th frame (--stream).")
@click.option("--smooth", type=click.IntRange(1), help="Answer by the mean over so many frames (--stream).")
def predict(
    bundle: Path, videos: tuple[Path, ...], top: int, as_json: bool, stream: bool, every: int | None, smooth: int | None
) -> None:
    """Classify VIDEOS with a BUNDLE; a video that cannot be read is named, and the others go on (exit code 1).

    --stream needs a causal student; it prints a line where the answer changes (--json: one for each frame).
    """
    from skd_bench.inference.frame_stream import iter_stream_lines
    from skd_bench.inference.predict import predict as classify

    if stream:
        for line in iter_stream_lines(bundle, videos, as_json, every=every, smooth=smooth):
            click.echo(line)
        return

    results = classify(bundle, list(videos), top=top)
    click.echo(json.dumps(results, indent=2) if as_json else "\n".join(map(_format_prediction, results)))
    _exit_with(EXIT_FAILED if any("error" in result for result in results) else EXIT_DONE)


@cli.command()
@click.argument("bundle", type=ExistingFolder)
@click.argument("videos", nargs=-1, required=True, type=AnyPath)
@click.option("--window", type=float, help="Seconds of one clip.  [default: dense sampling's, or of the sample clips]")
@click.option("--hop", type=float, default=0.5, show_default=True, help="Seconds between two answers.")
@click.option("--smooth", type=click.IntRange(1, 1000), default=3, show_default=True, help="Answers averaged.")
@click.option("--threshold", type=float, default=0.5, show_default=True, help="Probability from which one reports.")
@click.option("--background", multiple=True, help="A class that is no event; repeatable.")
@click.option("--events", type=AnyPath, help="What happened: a CSV (video,start,end,class), for false alarms an hour.")
@click.option("--threads", type=click.IntRange(1, 256), default=1, show_default=True, help="For decoding and runtime.")
@json_option
def watch(
    bundle: Path, videos: tuple[Path, ...], events: Path | None, threads: int, as_json: bool, **options: Any
) -> None:
    """Watch long VIDEOS with a BUNDLE: what happens when, the real-time factor, and each stage's share of the time."""
    from skd_bench.inference.long_video import VideoAnalysisSettings
    from skd_bench.inference.long_video import analyse_videos as analyse
    from skd_bench.watch_table import format_analysis_table

    result = analyse(bundle, list(videos), VideoAnalysisSettings(**options), events=events, threads=threads)
    click.echo(json.dumps(result, indent=2) if as_json else format_analysis_table(result))
    _exit_with(EXIT_FAILED if any("error" in row for row in result["videos"]) else EXIT_DONE)


@cli.command()
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.option("--signers", type=AnyPath, metavar="FILE", help="Who is trusted: ssh-keygen's allowed_signers.")
@click.option("--run/--no-run", default=True, show_default=True, help="Run its files on its sample clips.")
@json_option
def verify(bundle: Path, signers: Path | None, run: bool, as_json: bool) -> None:
    """Check that a BUNDLE (or a zip of one) is as it was made: its signature, its files, its answers.

    Sample clips, where it has some, are answered here as they were where it was made. Nothing is run before all hashes
    are right.
    """
    from skd_bench.evaluation.verify_bundle import verify_bundle

    verification = verify_bundle(bundle, signers=signers, run=run)
    if verification.problems and not as_json:
        raise UserError(f"{bundle} is not as it was made:\n  " + "\n  ".join(verification.problems))
    click.echo(json.dumps(verification.to_json(), indent=2) if as_json else verification.to_text())
    _exit_with(EXIT_FAILED if verification.problems else EXIT_DONE)


@cli.command()
@click.argument("bundle", type=ExistingFolder)
@click.option("--key", type=AnyPath, required=True, help="A private SSH key, or the public half of one in ssh-agent.")
def sign(bundle: Path, key: Path) -> None:
    """Sign a BUNDLE with an SSH key; verify --signers tells who signed."""
    from skd_bench.bundle.signing import sign_bundle as write_signature

    click.echo(
        f"wrote {write_signature(bundle, key)}; to check: skd-edge verify --signers FILE {shlex.quote(str(bundle))}"
    )


@cli.command("bundle")
@click.argument("bundle", type=ExistingFolder)
@click.option("--triton", type=AnyPath, required=True, metavar="OUT", help="Write a Triton model repository there.")
@click.option("--batch", type=click.IntRange(1, 4096), default=8, show_default=True, help="Clips in one query.")
def bundle_command(bundle: Path, triton: Path, batch: int) -> None:
    """Write a BUNDLE in the layout that a server wants; the bundle stays as it is."""
    from skd_export.targets.triton import write_triton_repository

    names = write_triton_repository(bundle, triton, largest_batch=batch)
    click.echo(f"wrote {triton}: {', '.join(names)}; tritonserver --model-repository={shlex.quote(str(triton))}")


@cli.command()
@click.argument("sources", nargs=-1, type=ExistingPath)
@click.option(
    "--baseline", type=ExistingPath, help="What changes are counted from: a stored comparison, a run, a bundle."
)
@click.option("--fail-if", "rules", multiple=True, metavar="RULE", help="e.g. 'p90_ms>+10%'; repeatable; exit code 1.")
@click.option("--force", is_flag=True, help="Put different devices side by side.")
@click.option("--html", type=AnyPath, help="Also write a page with charts.")
@click.option("--csv", "table", type=AnyPath, help="Also write a CSV file.")
@click.option("--store", type=AnyPath, help="Also store the comparison, to be a baseline.")
@click.option("--schema", type=click.Choice(["run", "comparison"]), help="Print a JSON schema and stop.")
@json_option
def report(sources: tuple[Path, ...], schema: str | None, **options: Any) -> None:
    """Compare SOURCES side by side, as Markdown; one RUN folder alone: write its report again.

    A source is a bundle, a run folder, or the JSON of bench, accuracy, a pack, or of report itself.
    """
    from skd_edge.report.comparison.compare import compare_sources as compare
    from skd_edge.report.comparison.json_schemas import format_json_schema

    if schema:
        return click.echo(format_json_schema(schema))
    comparison = compare(sources, **options)
    click.echo(comparison.text)
    return _exit_with(EXIT_FAILED if comparison.failed else EXIT_DONE)


@cli.command()
@click.argument("bundle", type=ExistingFolder)
@click.argument("videos", type=AnyPath)
@click.option("--views", type=click.IntRange(1, 30), multiple=True, default=(1,), show_default=True, help="Repeatable.")
@click.option("--reject", type=click.FloatRange(0, 1), help="Report no class below this probability.")
@click.option("--class", "named", multiple=True, help="A class whose recall at --reject matters; repeatable.")
@click.option("--threads", type=click.IntRange(1, 256), default=1, show_default=True, help="Threads of the runtime.")
@json_option
def accuracy(bundle: Path, videos: Path, as_json: bool, **options: Any) -> None:
    """Score a BUNDLE's files on labelled VIDEOS: a folder with CLASS/video.mp4, or a CSV (path,label[,group])."""
    from skd_bench.evaluation.evaluate import evaluate
    from skd_bench.text_tables import format_accuracy_table

    result = evaluate(bundle, videos, progress=_make_progress_counter("scored"), **options)
    click.echo(json.dumps(result, indent=2) if as_json else format_accuracy_table(result))


@cli.command()
@json_option
def doctor(as_json: bool) -> None:
    """What this machine can train on, export to and run; each missing thing with its reason and its pip line."""
    from skd_edge.cli.doctor import run_diagnostics

    examined = run_diagnostics()
    click.echo(json.dumps(examined.to_json(), indent=2) if as_json else examined.to_text())


@cli.command("models")
@click.argument("recipe", required=False)
@set_option
@code_option
@json_option
def models_command(recipe: str | None, sets: tuple[str, ...], allow_code: bool, as_json: bool) -> None:
    """All networks that a recipe can name, or those of a RECIPE: parameters, MACs and substage shapes."""
    from skd_edge.recipe.loader import load_recipe

    loaded = load_recipe(recipe, sets) if recipe else None
    from skd_edge.models.catalogue import iter_catalogue, iter_table_lines

    entries = iter_catalogue(loaded, allow_code=allow_code)
    shown = [json.dumps([e.to_json() for e in entries], indent=2)] if as_json else iter_table_lines(entries)
    for line in shown:
        click.echo(line)


@cli.command()
def schema() -> None:
    """Print the JSON schema of recipes, for editors."""
    from skd_edge.recipe.loader import recipe_schema

    click.echo(json.dumps(recipe_schema(), indent=2))


@cli.group()
def labels() -> None:
    """Look at weak labels."""


@labels.command("audit")
@click.argument("recipe")
@click.option("--out", type=AnyPath, help="The run folder; compress may go on in it.  [default: runs/NAME]")
@set_option
@code_option
@click.option("--top", type=click.IntRange(1, 10_000), default=100, show_default=True, help="Clips on the page.")
@click.option("--no-pictures", is_flag=True, help="Write no frame of any video.")
@click.option("--threads", type=click.IntRange(1, 1024), help="Threads that train.  [default: torch's choice]")
@click.pass_obj
def audit_command(
    state: dict[str, Path], /, recipe: str, out: Path | None, sets: tuple[str, ...], no_pictures: bool, **options: Any
) -> None:
    """Rank a RECIPE's training clips by how wrong their labels look; trains the teacher, which compress reuses.

    Edit audit/audit.csv (or decide on the page), then: --set labels.trusted=FILE
    """
    from skd_edge.recipe.loader import load_recipe

    loaded = load_recipe(recipe, sets)
    state["run"] = out or Path("runs", loaded.name)
    from rich.console import Console

    from skd_edge.pipeline.audit_labels import audit_labels

    click.echo(audit_labels(loaded, state["run"], console=Console(stderr=True), pictures=not no_pictures, **options))


@cli.group()
def data() -> None:
    """Look at a recipe's clips, or make some."""


@data.command("scan")
@click.argument("recipe")
@click.option("--out", type=AnyPath, default=Path("quarantine.csv"), show_default=True, help="The list of what failed.")
@click.option("--timeout", "patience", type=click.FloatRange(1), default=60, show_default=True, help="Seconds a clip.")
@click.option("--processes", type=click.IntRange(1, 1024), help="How many decode.  [default: one for each core]")
@set_option
def scan_command(recipe: str, out: Path, sets: tuple[str, ...], **options: Any) -> None:
    """Decode every clip of a RECIPE once, and list those that cannot be read; compress leaves them out.

    Stopped on the way, the same command goes on. What is decoded is kept: compress does not decode it again.
    """
    from skd_edge.data.scan import scan_clips
    from skd_edge.recipe.loader import load_recipe
    from skd_edge.run_folder import cache_root

    loaded = load_recipe(recipe, sets)
    click.echo(scan_clips(loaded, cache_root(), out, progress=_make_progress_counter, **options).to_text())


@data.command()
@click.option("--out", type=AnyPath, required=True, help="The folder to fill.")
@click.option("--train", type=int, help="Training clips.")
@click.option("--val", type=int, help="Trusted validation clips.")
@click.option("--test", type=int, help="Untouched test clips.")
@click.option("--frames", type=int, help="Frames in each video.")
@click.option("--size", type=int, help="Height and width, pixels.")
@click.option("--difficulty", type=float, help="0 easy, 1 hard.")
@click.option("--seed", type=click.IntRange(0, 2**31 - 1), default=0, show_default=True)
def generate(out: Path, seed: int, **settings: float | None) -> None:
    """Render clips whose class is a motion, as H.264 files."""
    from skd_edge.recipe.data import GeneratedData
    from skd_edge.recipe.loader import make_section_from_options

    checked = make_section_from_options(GeneratedData, {"kind": "generated", **settings})
    from skd_edge.data.sources.synthetic import generate_dataset as render

    click.echo(render(out, checked, seed, progress=_make_progress_counter("rendered")))


def _make_progress_counter(label: str) -> Callable[[int, int], None] | None:
    """Shows (done, total) on one line of a terminal, at most thirty times a second; None where nobody watches."""
    if not sys.stderr.isatty():
        return None
    last_shown = 0.0

    def show_progress(done: int, total: int) -> None:
        nonlocal last_shown
        if done == total or time.monotonic() - last_shown > 0.03:
            last_shown = time.monotonic()
            click.echo(f"\r{label} {done} of {total}" + "\n" * (done == total), err=True, nl=False)

    return show_progress


def _exit_with(code: int) -> None:
    if code:
        click.get_current_context().exit(code)


def _format_prediction(result: dict[str, Any]) -> str:
    if "error" in result:
        return f"{result['video']}: error: {result['error']}"
    top_classes = ", ".join(f"{name} {probability:.1%}" for name, probability in result["top"])
    if "answer" not in result or result["answer"] == result["top"][0][0]:
        return f"{result['video']}: {top_classes}"
    return f"{result['video']}: {result['answer'] or 'unsure'} ({top_classes})"


def main() -> NoReturn:
    """The ``skd-edge`` program."""
    sys.exit(run(sys.argv[1:]))


def run(args: Sequence[str]) -> int:
    """One command line, from its words (after ``skd-edge``) to its exit code; never an exception."""
    return run_command_line(cli, args)
