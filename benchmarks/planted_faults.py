"""Faults in a data set that `egodistill train` must show: a page for a reader who knows nothing of them.

    python benchmarks/planted_faults.py --out OUT                          # OUT/run/report.html

Renders a world and plants three faults: half of a class have the label of another one, the IMU clock of a recording is
0.5 s late, and the IMU of the camera is mounted turned. `--seed` draws where; OUT/faults.json says it, for afterwards.
"""

from __future__ import annotations

import argparse
import csv
import random
import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout's egodistill, installed or not

from egodistill.commands import cli
from egodistill.support import files
from egodistill.world import synthetic

TRAINING = "--preset demo --epochs 30 --learning-rate 0.002 --image-encoder resnet10x16 --image-weights none"
LATE = 0.5  # seconds
SINGLE = ("pour", "throw", "scrape", "press")  # verbs that a frame tells
TURNED = (2, 0, 1)  # x, y and z of the turned sensor are z, x and y of the camera's


def read(path: Path) -> list[list[str]]:
    with open(path, newline="", encoding="utf-8") as file:
        return list(csv.reader(file))


def write(path: Path, rows: list[list[str]]) -> None:
    with open(path, "w", newline="", encoding="utf-8") as file:
        csv.writer(file).writerows(rows)


def plant(world: synthetic.World, seed: int) -> dict[str, str]:
    """Change the files of a world; return what was done where."""
    rng = random.Random(seed)
    right, wrong = rng.sample(SINGLE, 2)
    head, *rows = read(world.annotations)
    verb, number = head.index("verb"), head.index("verb_class")
    numbers = {row[verb]: row[number] for row in rows}
    for row in [row for row in rows if row[verb] == right][::2]:
        row[verb], row[number] = wrong, numbers[wrong]
    write(world.annotations, [head, *rows])

    tables = sorted(world.root.rglob("*-accl.csv"))
    late = rng.choice([path for path in tables if path.name.split("_")[0] not in world.test_wearers])
    for path in (late, late.with_name(late.name.replace("-accl", "-gyro"))):
        first, *samples = read(path)
        write(path, [first, *([str(float(time) + 1000 * LATE), *values] for time, *values in samples)])

    for path in [*tables, *sorted(world.root.rglob("*-gyro.csv"))]:
        first, *samples = read(path)
        write(path, [first, *([time, *(values[k] for k in TURNED)] for time, *values in samples)])
    name = late.name.removesuffix("-accl.csv")
    wrong_labels = f"half of {right} are labelled {wrong}"
    return {"labels": wrong_labels, "clock": f"{name} is {LATE} s late", "axes": "--imu-axes YZX for all"}


def main() -> int:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--out", metavar="FOLDER", type=Path, required=True)
    parser.add_argument("--seed", type=int, default=0, help="of the faults")
    parser.add_argument("--acts", type=int, default=800, help="training segments")
    a = parser.parse_args()
    if not (a.out / "faults.json").exists():
        world = synthetic.render(a.out / "world", train_acts=a.acts, test_acts=a.acts // 2, label_noise=0.0)
        files.write_json(a.out / "faults.json", plant(world, a.seed))
    table, run = a.out / "world" / "EPIC_100_train.csv", a.out / "run"
    return cli.main(["train", str(table), "--out", str(run), "--frame-size", "64", *TRAINING.split()])


if __name__ == "__main__":
    sys.exit(main())
