"""Make the README's pictures from a run folder of the quickstart, with headless Chromium.

    python docs/make_pictures.py runs/quickstart

`docs/pictures/report.png` is the first screen of the run's ``report.html``, `docs/pictures/tradeoff.png` its plot of
accuracy against latency. Chromium: ``apt-get install chromium``; another program: ``--chromium PATH``. Only the
quickstart is accepted, because it renders its own clips: a picture shows nobody's data.
"""

from __future__ import annotations

import argparse
import json
import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

PICTURES = Path(__file__).resolve().parent / "pictures"
MAX_BYTES = 300_000
# Width and height of the window, CSS pixels.
REPORT_WINDOW = (1180, 600)
PLOT_WINDOW = (980, 600)
FLAGS = (
    "--headless",
    "--no-sandbox",
    "--disable-gpu",
    "--disable-quic",
    "--no-first-run",
    "--disable-background-networking",
    "--disable-component-update",
    "--disable-sync",
    "--hide-scrollbars",
    "--virtual-time-budget=5000",  # the charts are drawn by a script
)
# Leaves only the figure of the plot on the page.
PLOT_STYLE = """<style>
header.top, footer, main > section:not(#candidates), #candidates > :not(figure) { display: none !important; }
section { margin: 0 !important; padding-top: 0 !important; border: 0 !important; }
figure { margin: 0 !important; border: 0 !important; }
main { padding-top: 22px !important; }
</style></head>"""


def take_screenshot(chromium: str, page: Path, picture: Path, window: tuple[int, int]) -> None:
    """Write the first screen of a page as a PNG file.

    Raises:
        SystemExit: Chromium wrote no picture, or a picture that is too large for the repository.
    """
    with tempfile.TemporaryDirectory() as profile:
        arguments = [f"--user-data-dir={profile}", f"--window-size={window[0]},{window[1]}", f"--screenshot={picture}"]
        done = subprocess.run(
            [chromium, *FLAGS, *arguments, page.as_uri()], capture_output=True, text=True, timeout=120, check=False
        )
    if done.returncode or not picture.is_file():
        sys.exit(f"{chromium} wrote no picture of {page}:\n{done.stderr[-1000:]}")
    if picture.stat().st_size > MAX_BYTES:
        sys.exit(f"{picture} has {picture.stat().st_size} bytes; at most {MAX_BYTES} are allowed")


def main() -> None:
    """Make both pictures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("run", type=Path, help="a finished run folder of the recipe quickstart")
    parser.add_argument("--chromium", default=shutil.which("chromium") or shutil.which("chromium-browser"))
    options = parser.parse_args()
    if options.chromium is None:
        sys.exit("Chromium is not installed; install it (apt-get install chromium), or give --chromium PATH")
    report = options.run.resolve() / "report.html"
    name = json.loads((options.run / "report.json").read_text(encoding="utf-8"))["name"]
    if name != "quickstart":
        sys.exit(f"{options.run} is a run of {name!r}; pictures are made from the quickstart only")
    PICTURES.mkdir(exist_ok=True)
    take_screenshot(options.chromium, report, PICTURES / "report.png", REPORT_WINDOW)
    with tempfile.TemporaryDirectory() as folder:
        plot = Path(folder) / "plot.html"
        plot.write_text(report.read_text(encoding="utf-8").replace("</head>", PLOT_STYLE, 1), encoding="utf-8")
        take_screenshot(options.chromium, plot, PICTURES / "tradeoff.png", PLOT_WINDOW)
    for picture in sorted(PICTURES.glob("*.png")):
        print(f"{picture}: {picture.stat().st_size / 1000:.0f} kB")


if __name__ == "__main__":
    main()
