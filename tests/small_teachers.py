"""Video networks and teachers small enough for tests, which several test files use."""

import math

import numpy as np
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

from egodistill import teachers
from egodistill.engine import batches

LABELS = ["take", "put", "wash"]


NARROW = {"width": 8, "beta": 4, "depths": (1, 1, 1, 1), "fusion_kernel": 5}


SMALL_MOTIONFORMER = {"frames": 6, "size": 32, "patch": 8, "width": 24, "depth": 2, "heads": 3}


SMALL_MVIT = {"frames": 4, "size": 32, "width": 12, "depths": (1, 2, 1), "kv_stride": 4}


SMALL_X3D = {"frames": 4, "size": 32, "width": 8, "depth_factor": 1.0, "feature_dim": 20}


SMALL_SLOWFAST = {"frames": 8, "size": 32, **NARROW}


SMALL_I3D = {"frames": 8, "size": 32, "width": 8}


SMALL = {
    "motionformer_16x4": SMALL_MOTIONFORMER,
    "epic_motionformer_16x4": SMALL_MOTIONFORMER,
    "mvit_b_16x4": SMALL_MVIT,
    "x3d_m": SMALL_X3D,
    "slowfast_8x8_r50": SMALL_SLOWFAST,
    "i3d": SMALL_I3D,
}


def settle(net):
    """Random values everywhere, so large that every part of a network is seen in its outputs."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, value in net.state_dict().items():
            if value.is_floating_point():
                noise = torch.randn(value.shape, generator=generator)
                if key.endswith("running_var"):
                    value.copy_(0.5 + noise.abs())
                elif value.ndim > 1:
                    value.copy_(noise * 1.5 / math.sqrt(math.prod(value.shape[1:])))
                else:
                    value.copy_((1.0 if key.endswith("weight") else 0.0) + 0.2 * noise)
    return net


def small(name, num_classes=None, **options):
    if num_classes is None:
        num_classes = (3, 5) if name.startswith("epic") else 3
    options = {**SMALL[name], **options}
    teacher = teachers.load(name, None, num_classes, progress=False, **options)
    settle(teacher.net)
    return teacher


def narrow(seed=0, name="slowfast", **options):
    """A teacher of 8 frames of 32 pixels, with settled random weights."""
    torch.manual_seed(seed)
    options = {"class_names": LABELS, "frames": 8, "size": 32, "progress": False} | NARROW | options
    teacher = teachers.load("slowfast_8x8_r50", None, len(options["class_names"]), **options)
    teacher.name = name
    for layer in teacher.modules():
        if isinstance(layer, nn.BatchNorm3d):  # fresh ones hide residual branches and statistics
            nn.init.uniform_(layer.weight, 0.5, 1.5)
            nn.init.normal_(layer.bias, std=0.1)
            nn.init.normal_(layer.running_mean, std=0.1)
            nn.init.uniform_(layer.running_var, 0.5, 1.5)
    nn.init.normal_(teacher.net.head.projection.weight)
    return teacher.eval()


def random_clips(count, frames=8, size=32, seed=0):
    rng = np.random.default_rng(seed)
    return rng.integers(0, 256, (count, frames, 3, size, size), dtype=np.uint8)


def meta(name, num_classes=None, **options):
    with torch.device("meta"):
        return teachers.load(name, None, num_classes, progress=False, **options)


def gmacs(teacher):
    with FlopCounterMode(display=False) as counter:
        teacher(batches.example_inputs(teacher)[0].to("meta"))
    return counter.get_total_flops() / 2e9


class Positions(nn.Module):
    """Scores at every place, a softmax over them, then their mean, as many video models do."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        if isinstance(self.layer, nn.Linear):
            return self.layer(x.movedim(1, -1)).softmax(-1).mean((1, 2, 3))
        return self.layer(x).softmax(1).mean((2, 3, 4))
