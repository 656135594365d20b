"""A student in every format and precision that is at hand, beside the original: the README's table of exported files.

    pip install ".[export]"                                  # what is missing is left out, and said
    python benchmarks/export.py student.pt store             # int8 sees the split train, the table is of the split test
    python benchmarks/export.py                              # the paper's student, random weights and clips: time, size

Time is that of one clip on one core: the median, over rounds in which the files take turns, of the processor's time.
The clock would count other programs on the machine, too.
"""

from __future__ import annotations

import argparse
import platform
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # The checkout's egodistill, installed or not.

from egodistill import EgoDistill, commands, data, export, model_commands, runtime


class RandomClips:
    """A store in memory that looks like no recording; labels are unknown."""

    def __init__(self, model: EgoDistill, count: int) -> None:
        names = [f"frames_{model.num_frames}" if name == "frames" else name for name in model.inputs]
        self.arrays = {name: x.numpy() for name, x in zip(names, export.model_inputs(model, count), strict=True)}
        self.names, self.labels = names, np.full(count, -1)
        self.class_names = model.class_names or [str(k) for k in range(model.num_classes)]

    def __len__(self) -> int:
        return len(self.labels)

    def read(self, name: str, index: np.ndarray) -> np.ndarray:
        return self.arrays[name][index]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("checkpoint", nargs="?", help="file of a student")
    parser.add_argument("store", nargs="?", help="folder of its clips, with the splits train and test")
    parser.add_argument("--formats", nargs="+", choices=tuple(export.FORMATS), default=tuple(export.FORMATS))
    parser.add_argument("--precisions", nargs="+", choices=export.PRECISIONS, help="all; bf16 where it is fast")
    parser.add_argument("--clips", type=commands.positive, default=64, help="random clips, where no store is given")
    parser.add_argument("--repeats", type=commands.positive, default=30, help="rounds of the time")
    a = parser.parse_args()
    fast, reason = runtime.bf16_speed(torch.device("cpu"))
    precisions = a.precisions or [name for name in export.PRECISIONS if name != "bf16" or fast]
    print(f"precisions {', '.join(precisions)}: {reason}")
    torch.manual_seed(0)
    model = EgoDistill.load(a.checkpoint) if a.checkpoint else EgoDistill(62, image_weights=None).eval()
    if a.store:
        train, test = (data.ClipStore(a.store).split(split) for split in ("train", "test"))
    else:
        train = test = RandomClips(model, a.clips)
    with tempfile.TemporaryDirectory() as folder:
        files = []
        for format in a.formats:
            for precision in precisions:
                path = Path(folder, f"{format}-{precision}{export.FORMATS[format].suffix}")
                try:
                    export.export(model, path, format=format, precision=precision, calibrate=train)
                except export.ExportError as error:
                    print(f"left out, {format} in {precision}: {error}")
                else:
                    files.append(path)
        print(model_commands.comparison_table(export.compare(model, test, files, repeats=a.repeats), len(test)))
    capability = torch.backends.cpu.get_cpu_capability()
    print(
        f"torch {torch.__version__}, {platform.machine()}, {capability}, {model.arguments['image_encoder']}, "
        f"{model.frame_size} pixels, N = {model.num_frames}"
    )


if __name__ == "__main__":
    main()
