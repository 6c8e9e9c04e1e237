"""Commands for a finished bundle: ``bench``, ``predict``, ``watch``, ``verify``, ``sign``, ``accuracy``."""

from __future__ import annotations

import json
import shlex
from pathlib import Path
from typing import TYPE_CHECKING, Any

import click

from skd_bench.errors import UserError
from skd_bench.untrusted.text import escape_name, print_error, print_text
from skd_edge.cli.exit_codes import EXIT_DONE, EXIT_FAILED
from skd_edge.cli.options import AnyPath, ExistingFolder, exit_with, json_option, make_progress_counter

if TYPE_CHECKING:
    from skd_bench.inference.predict import Prediction, VideoError


@click.command()
@click.argument("bundle", type=ExistingFolder)
@json_option
@click.option("--processes", type=click.IntRange(1, 50), default=5, show_default=True, help="Fresh processes.")
@click.option("--queries", type=click.IntRange(20, 100_000), default=240, show_default=True, help="Queries in each.")
@click.option("--threads", type=click.IntRange(1, 256), default=1, show_default=True, help="Threads of the runtime.")
@click.option("--host", metavar="USER@DEVICE", help="Measure on another machine, through ssh.")
@click.option("--python", default="python3", show_default=True, help="The Python of --host.")
@click.option("--keep", is_flag=True, help="Do not delete the temporary folder on --host.")
@click.option(
    "--pack", type=AnyPath, metavar="FILE", help="Write FILE, to be run on a device without a link; measure nothing."
)
@click.option(
    "--runtime", "runtimes", multiple=True, metavar="NAME", help="Also measure on this runtime (doctor lists them)."
)
@click.option("--scenario", "scenarios", multiple=True, help="single-stream, multi-stream, offline or concurrent.")
@click.option("--batches", default="", metavar="1,2,4", help="Batch sizes; one row for each.")
@click.option(
    "--bound",
    type=float,
    metavar="MS",
    help="Find the batch size with the highest throughput whose latency is within MS.",
)
@click.option(
    "--engine", "engines", multiple=True, type=AnyPath, help="Also measure an engine that skd-edge build wrote."
)
@click.option("--out", type=AnyPath, metavar="FILE.json", help="Write the result, and all samples as FILE.npz.")
@click.option("--dry-run", is_flag=True, help="Print what would be measured, and stop.")
def bench(
    bundle: Path,
    as_json: bool,
    processes: int,
    queries: int,
    threads: int,
    host: str | None,
    python: str,
    keep: bool,
    pack: Path | None,
    runtimes: tuple[str, ...],
    scenarios: tuple[str, ...],
    batches: str,
    bound: float | None,
    engines: tuple[Path, ...],
    out: Path | None,
    dry_run: bool,
) -> None:
    """Measure a BUNDLE's files on this machine (the same as python -m skd_bench), or on another one.

    On a device without a link, run the file that --pack wrote: python FILE. It needs numpy and a runtime, but not
    skd-edge.
    """
    from skd_bench.benchmark.latency import MeasurementSettings
    from skd_bench.benchmark.request import BenchmarkRequest
    from skd_bench.benchmark.scenarios import LoadScenarios
    from skd_bench.remote.bench_command import bench_command, parse_batches
    from skd_bench.remote.runner import SshTarget
    from skd_bench.text_tables import format_benchmark_table

    extra = LoadScenarios(list(scenarios), parse_batches(batches), bound, list(runtimes))
    result = bench_command(
        BenchmarkRequest(bundle, MeasurementSettings(threads, processes, queries), extra, engines),
        ssh=None if host is None else SshTarget(host, python, keep),
        pack=pack,
        out=out,
        dry_run=dry_run,
        progress=make_progress_counter("measuring, process"),
    )
    if isinstance(result, str):
        return print_text(result)
    return print_text(json.dumps(result, indent=2) if as_json else format_benchmark_table(result))


@click.command()
@click.argument("bundle", type=ExistingFolder)
@click.argument("videos", nargs=-1, required=True, type=AnyPath)
@click.option("--top", type=click.IntRange(1), default=5, show_default=True, help="Classes shown for each video.")
@json_option
@click.option("--stream", is_flag=True, help="Classify a long video or a camera (/dev/video0) frame by frame.")
@click.option("--every", type=click.IntRange(1), help="Use only every n-th frame (--stream).")
@click.option("--smooth", type=click.IntRange(1), help="Average the predictions of the last n frames (--stream).")
def predict(
    bundle: Path, videos: tuple[Path, ...], top: int, as_json: bool, stream: bool, every: int | None, smooth: int | None
) -> None:
    """Classify VIDEOS (files, folders of videos, folders of pictures) with a BUNDLE.

    Unreadable videos are reported and skipped (exit code 1).

    --stream needs a causal student; it prints a line when the predicted class changes (--json: for each frame).
    """
    from skd_bench.inference.frame_stream import iter_stream_lines
    from skd_bench.inference.predict import predict as classify
    from skd_bench.listing.folder_walk import LeftOut, expand_folders

    if stream:
        for line in iter_stream_lines(bundle, videos, as_json, every=every, smooth=smooth):
            print_text(line)
        return

    left_out = LeftOut()
    results = classify(bundle, expand_folders(videos, left_out), top=top)
    if text := left_out.to_text():
        print_error(text)
    print_text(json.dumps(results, indent=2) if as_json else "\n".join(map(_format_prediction, results)))
    exit_with(EXIT_FAILED if any("error" in result for result in results) else EXIT_DONE)


@click.command()
@click.argument("bundle", type=ExistingFolder)
@click.argument("videos", nargs=-1, required=True, type=AnyPath)
@click.option("--window", type=float, help="Seconds of one clip.  [default: as in training]")
@click.option("--hop", type=float, default=0.5, show_default=True, help="Seconds between two predictions.")
@click.option(
    "--smooth", type=click.IntRange(1, 1000), default=3, show_default=True, help="Number of predictions to average."
)
@click.option("--threshold", type=float, default=0.5, show_default=True, help="Lowest probability that is an event.")
@click.option("--background", multiple=True, help="A class that is not an event; repeatable.")
@click.option(
    "--events", type=AnyPath, help="True events, a CSV (video,start,end,class): counts false alarms per hour."
)
@click.option(
    "--threads",
    type=click.IntRange(1, 256),
    default=1,
    show_default=True,
    help="Threads for decoding and for the runtime.",
)
@json_option
def watch(
    bundle: Path, videos: tuple[Path, ...], events: Path | None, threads: int, as_json: bool, **options: Any
) -> None:
    """Detect events in long VIDEOS with a BUNDLE; also report the real-time factor and the time of each stage."""
    from skd_bench.inference.long_video import VideoAnalysisSettings
    from skd_bench.inference.long_video import analyse_videos as analyse
    from skd_bench.text_tables import format_analysis_table

    result = analyse(bundle, list(videos), VideoAnalysisSettings(**options), events=events, threads=threads)
    print_text(json.dumps(result, indent=2) if as_json else format_analysis_table(result))
    exit_with(EXIT_FAILED if any("error" in row for row in result["videos"]) else EXIT_DONE)


@click.command()
@click.argument("bundle", type=click.Path(exists=True, path_type=Path))
@click.option(
    "--signers", type=AnyPath, metavar="FILE", help="Accepted signers, in the format of ssh-keygen's allowed_signers."
)
@click.option("--run/--no-run", default=True, show_default=True, help="Run the files on the sample clips.")
@click.option("--strict", is_flag=True, help="Fail if the folder has files that are not part of the bundle.")
@json_option
def verify(bundle: Path, signers: Path | None, run: bool, strict: bool, as_json: bool) -> None:
    """Check that a BUNDLE (or a zip of one) is unchanged: its signature, its files and their predictions.

    Where the bundle has sample clips, the predictions here must equal those stored in it. No file is run before all
    hashes are checked.
    """
    from skd_bench.evaluation.verify_bundle import verify_bundle

    verification = verify_bundle(bundle, signers=signers, run=run, strict=strict)
    if verification.problems and not as_json:
        problems = map(escape_name, verification.problems)
        raise UserError(f"{escape_name(bundle)} failed verification:\n  " + "\n  ".join(problems))
    print_text(json.dumps(verification.to_json(), indent=2) if as_json else verification.to_text())
    exit_with(EXIT_FAILED if verification.problems else EXIT_DONE)


@click.command()
@click.argument("bundle", type=ExistingFolder)
@click.option("--key", type=AnyPath, required=True, help="A private SSH key, or the public key of one in ssh-agent.")
def sign(bundle: Path, key: Path) -> None:
    """Sign a BUNDLE with an SSH key; verify --signers shows who signed it."""
    from skd_bench.bundle.signing import sign_bundle as write_signature

    print_text(
        f"wrote {write_signature(bundle, key)}; to check: skd-edge verify --signers FILE {shlex.quote(str(bundle))}"
    )


@click.command()
@click.argument("bundle", type=ExistingFolder)
@click.argument("videos", type=AnyPath)
@click.option(
    "--views",
    type=click.IntRange(1, 30),
    multiple=True,
    default=(1,),
    show_default=True,
    help="Views of each video; repeatable.",
)
@click.option("--reject", type=click.FloatRange(0, 1), help="Reject predictions below this probability.")
@click.option("--class", "named", multiple=True, help="Report the recall of this class at --reject; repeatable.")
@click.option("--threads", type=click.IntRange(1, 256), default=1, show_default=True, help="Threads of the runtime.")
@json_option
def accuracy(bundle: Path, videos: Path, as_json: bool, **options: Any) -> None:
    """Measure a BUNDLE's accuracy on labelled VIDEOS: a folder of CLASS/video.mp4, or a CSV (path,label[,group])."""
    from skd_bench.evaluation.evaluate import EvaluationSettings, evaluate
    from skd_bench.text_tables import format_accuracy_table

    result = evaluate(bundle, videos, EvaluationSettings(**options), progress=make_progress_counter("scored"))
    print_text(json.dumps(result, indent=2) if as_json else format_accuracy_table(result))


def _format_prediction(result: Prediction | VideoError) -> str:
    video = escape_name(result["video"])
    if "error" in result:
        return f"{video}: error: {escape_name(result['error'])}"
    classes = ", ".join(f"{escape_name(name)} {probability:.1%}" for name, probability in result["top"])
    if "confidence" in result:
        classes += f"; right with a probability of {result['confidence']:.0%}"
    if "answer" not in result or result["answer"] == result["top"][0][0]:
        return f"{video}: {classes}"
    return f"{video}: {escape_name(result['answer'] or 'none of these')} ({classes})"
