"""Run the page of examples/web in Chromium, with an imitated camera and imitated sensors, and compare it with Python.

    npm ci --ignore-scripts --prefix examples/web
    python benchmarks/web.py                                      # the paper's size, random weights
    python benchmarks/web.py --student student.safetensors --precision fp32

"first label" is the time from the tap on Start; the programs are loaded before. The times of answers are medians on the
page, in the worker that runs the networks. "difference" is the largest one of a probability from Python's on the log.
"""

from __future__ import annotations

import argparse
import json
import statistics
import sys
import tempfile
import warnings
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent / "tests"))  # the imitated phone
sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout's egodistill, installed or not

import phone
import torch
from chromium import Chromium

from egodistill import EgoDistill
from egodistill.deploy import export
from egodistill.support import tables


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--student", metavar="FILE", help="default: the paper's size, random weights")
    parser.add_argument("--precision", choices=("fp32", "int8"), nargs="+", default=["fp32", "int8"])
    parser.add_argument("--seconds", type=float, default=30.0, help="length of a run after its first label")
    tables.markdown_option(parser)
    a = parser.parse_args()
    if a.student:
        model = EgoDistill.load(a.student).eval()
    else:
        torch.manual_seed(0)
        model = phone.lively(EgoDistill(num_classes=97, image_weights=None).eval(), clips=32)
    rows = []
    with tempfile.TemporaryDirectory() as scratch:
        folder = phone.copy_page(Path(scratch))
        for precision in a.precision:
            with warnings.catch_warnings():
                warnings.simplefilter("ignore")  # int8 is calibrated on random inputs
                export.export_pair(model, folder / f"{precision}.onnx", format="onnx", precision=precision)
            rows.append([precision, *run(folder, precision, a.seconds)])
            print(rows[-1], file=sys.stderr)
    header = ["precision", "threads", "first label (s)", "picture and motion (ms)", "motion (ms)", "answers"]
    header += ["equal labels", "difference", "browser"]
    tables.report(tables.Table(header, rows), "benchmarks/web.py", a.markdown, sys.argv)


# After the first answer, there are some from a picture and some from motion alone.
BOTH = """(() => {
  const rows = egodistill.log().map((line) => JSON.parse(line)).filter((row) => row.classes?.length).slice(1);
  return rows.some((row) => row.encoded > 0) && rows.some((row) => !(row.encoded > 0));
})()"""


def run(folder: Path, name: str, seconds: float) -> list[str]:
    """Return the cells of one run of the page."""
    film = phone.write_camera(folder / "camera.y4m")
    with phone.Served(folder) as address, Chromium(*phone.camera_switches(film)) as browser:
        head = phone.Head(browser)
        browser.open(f"{address}index.html?student={name}.onnx", width=390)
        phone.start(browser)
        first = head.move(60, "document.getElementById('confidence').value > 0")
        head.move(seconds)
        head.move_until(BOTH)  # a busy machine may need longer
        lines, threads = browser.run("egodistill.log()"), browser.run("egodistill.threads()")
        version = browser.run("navigator.userAgent.match(/Chrome\\/\\d+/)[0]").replace("Chrome/", "Chromium ")
    found = phone.compare(export.load_pair(folder / f"{name}.onnx"), lines)
    answers = [row for row in map(json.loads, lines) if row.get("classes")]
    times: dict[bool, list[float]] = {True: [], False: []}
    for row in answers[1:]:  # the first one allocates memory
        times[row["encoded"] > 0].append(row["frame_ms"] + row["motion_ms"])
    shown = [f"{statistics.median(times[kind]):.0f}" if times[kind] else "-" for kind in (True, False)]
    return [
        str(threads),
        f"{first:.1f}",
        *shown,
        str(found.answers),
        str(found.same),
        f"{found.difference:.1e}",
        version,
    ]


if __name__ == "__main__":
    main()
