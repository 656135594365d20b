"""The command `teachers`: the published video models, and where their weights are. It needs no torch."""

from __future__ import annotations

import argparse
import textwrap

from ..engine.published import GMACS_NOTE, TEACHERS
from ..support.tables import Table

__all__ = ["run_teachers"]


def run_teachers(a: argparse.Namespace) -> None:
    """Print the published networks, and where their weights are."""
    networks, weights = [], []
    for name, (parameters, gmacs, feature, clip, classes, (source, licence, _), file) in TEACHERS.items():
        networks.append([name, f"{parameters:.2f} M", f"{gmacs:.2f}", f"{feature}", clip, classes])
        weights.append([name, source, licence, file])
    print(Table(["architecture", "parameters", "GMACs", "feature", "clip", "classes"], networks).text())
    print(f"{GMACS_NOTE}\nMotionFormer 16x4 as released by its authors needs 369 GMACs per clip.\n")
    print(Table(["architecture", "source", "licence", "published weights, e.g."], weights).text())
    for source, obtain in {source: obtain for *_, (source, _, obtain), _ in TEACHERS.values()}.items():
        print(textwrap.fill(f"{source}: {obtain}", 100, subsequent_indent="  ", break_on_hyphens=False))
    print(
        "`--pretrained FILE` of prepare, extract and finetune reads these files, except .pkl: in Python,\n"
        "  teachers.load(..., unsafe_pickle=True) does.\n"
        "* `--pretrained torchvision` downloads torchvision's weights; mvit_b_16x4 is its mvit_v1_b.\n"
        "  *_18 and s3d learnt on frames squeezed to 4:3 and 1:1; clips of a store are centre squares."
    )
