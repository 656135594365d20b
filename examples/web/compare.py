"""Compare the answers of the page with Python's: python compare.py egodistill-log.jsonl --student student.onnx.

The log has what the page received, in order: samples, the pictures that it looked at, and its answers. A `Stream` gets
the same, and its probabilities are compared with those on the page.
"""

from __future__ import annotations

import argparse
import base64
import contextlib
import json
import math
import sys
from collections.abc import Iterable
from typing import Any, NamedTuple

import numpy as np

from egodistill import Stream
from egodistill.deploy.export import load_pair

NONE = [math.nan] * 3  # of a sensor that has no sample at this time


class Comparison(NamedTuple):
    """Answers with classes, how many have the same label in both, and the largest difference of a probability."""

    answers: int
    same: int
    difference: float


def compare(pair: Any, lines: Iterable[str]) -> Comparison:
    """Return how the answers of a log differ from those of Python.

    Raise ValueError for a log of another student, for an answer that only one of the two has, and for a line that is
    not one of the page's; the message names the line.
    """
    rows = ((number, line) for number, line in enumerate(lines, 1) if line.strip())
    header = _row(*next(rows, (1, "{}")))
    if "log" not in header or "every" not in header:
        raise ValueError("line 1: not the header of the page's log; download the log again")
    if header.get("student") != pair.description["student"]:
        raise ValueError(f"line 1: the log is of student {header.get('student')}, not of {pair.description['student']}")
    size, found, differences, same = pair.clip_spec.size, {}, [], 0
    names = len(pair.description["class_names"] or []) or pair.description["outputs"][1]["shape"][1]
    options = {"every": header["every"], "frames": "newest", "max_pending": 1000, "top": names, "precision": "fp32"}
    with Stream(pair, **options, report=lambda state: None) as stream:
        for number, line in rows:
            row = _row(number, line)
            try:
                if "time" in row:
                    stream.accept_imu([row["time"]], [[*row.get("accel", NONE), *row.get("gyro", NONE)]])
                elif "frame" in row:
                    planes = np.frombuffer(base64.b64decode(row["rgb"]), np.uint8).reshape(3, size, size)
                    stream.accept_frame(float(row["frame"]), planes.transpose(1, 2, 0))
                elif "reset" in row:
                    stream.reset()
                elif "answer" in row:
                    found |= {round(answer.stop, 4): answer for answer in stream.results()}
                    ours = found.get(round(row["answer"], 4))
                    if ours is None or bool(ours.classes) != bool(row["classes"]):
                        problem = "no answer" if ours is None else ours.problem
                        raise ValueError(f"at {row['answer']:.2f} s, Python has {problem}, the page {row['problem']}")
                    if ours.classes:
                        scores = dict(ours.classes)
                        differences.append(max(abs(scores[name] - score) for name, score in row["classes"]))
                        same += ours.classes[0][0] == row["classes"][0][0]
            except KeyError as error:
                raise ValueError(f"line {number}: no key or class {error}: {line[:80]!r}") from error
            except (TypeError, ValueError) as error:
                raise ValueError(f"line {number}: {error}") from error
    return Comparison(len(differences), same, max(differences, default=0.0))


def _row(number: int, line: str) -> dict[str, Any]:
    """Return a line of the log. Raise ValueError, which names it, if it is not a JSON object."""
    with contextlib.suppress(ValueError):
        if isinstance(row := json.loads(line), dict):
            return row
    raise ValueError(f"line {number} is not a JSON object: {line[:80]!r}")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("log", metavar="JSONL", help="what the page's button Download wrote")
    parser.add_argument("--student", metavar="ONNX", required=True, help="the pair of the page, such as student.onnx")
    a = parser.parse_args()
    try:
        pair = load_pair(a.student)
    except (OSError, ValueError) as error:
        sys.exit(f"{error}")
    try:
        with open(a.log, encoding="utf-8") as file:
            found = compare(pair, file)
    except OSError as error:
        sys.exit(f"{a.log}: cannot be read: {error.strerror}")
    except ValueError as error:
        sys.exit(f"{a.log}: {error}")
    print(f"{found.answers} answers, {found.same} with the same label; largest difference {found.difference:.1e}")


if __name__ == "__main__":
    main()
