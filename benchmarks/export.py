"""Compare a student in all formats and precisions with the original: labels, size, time.

    pip install ".[export]"                                  # formats whose packages are missing are left out
    python benchmarks/export.py student.safetensors store    # calibrates int8 on the split train, compares on test
    python benchmarks/export.py                              # the paper's student, random weights and clips: time, size

Compiled files are written for any number of clips and for one clip. Time is the processor time of one clip on one core,
median over rounds in which the files take turns. Unlike wall-clock time, it does not count other programs on the
machine.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from pathlib import Path

import numpy as np
import torch

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))  # the checkout's egodistill, installed or not

from egodistill import EgoDistill, data
from egodistill.commands import models
from egodistill.commands.options import positive_int
from egodistill.deploy import export
from egodistill.engine import runtime
from egodistill.support import tables


class RandomClips:
    """Store of random clips in memory, without labels."""

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
    parser.add_argument("checkpoint", nargs="?", help="file of a trained student")
    parser.add_argument("store", nargs="?", help="folder of a clip store with the splits train and test")
    parser.add_argument("--formats", nargs="+", choices=tuple(export.FORMATS), default=tuple(export.FORMATS))
    parser.add_argument(
        "--precisions", nargs="+", choices=export.EXPORT_PRECISIONS, help="default: all, bf16 only if it is fast"
    )
    parser.add_argument("--clips", type=positive_int, default=64, help="number of random clips, without a store")
    parser.add_argument("--repeats", type=positive_int, default=30, help="rounds of timing")
    tables.markdown_option(parser)
    a = parser.parse_args()
    fast, reason = runtime.bf16_speed(torch.device("cpu"))
    precisions = a.precisions or [name for name in export.EXPORT_PRECISIONS if name != "bf16" or fast]
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
                for batch_size in (None, 1) if format == "aoti" else (None,):
                    name = f"{format}-{precision}{'-one-clip' if batch_size else ''}{export.FORMATS[format].suffix}"
                    options = {"precision": precision, "calibrate": train, "batch_size": batch_size}
                    try:
                        export.export(model, Path(folder, name), format=format, **options)
                    except export.ExportError as error:
                        print(f"left out {name}: {error}")
                    else:
                        files.append(Path(folder, name))
        table = models.comparison_table(export.compare(model, test, files, repeats=a.repeats))
    print(
        f"{model.arguments['image_encoder']}, {model.frame_size} pixels, N = {model.num_frames}, {len(test)} clips, "
        f"{torch.backends.cpu.get_cpu_capability()}"
    )
    machine = f"{tables.short_processor()}, {torch.backends.cpu.get_cpu_capability()}"
    tables.report(table, "benchmarks/export.py", a.markdown, sys.argv, machine=machine)


if __name__ == "__main__":
    main()
