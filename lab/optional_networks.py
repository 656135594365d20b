"""Students that may lack frames or head motion, and how they learn to: the candidates of `optional_inputs.py`.

They are a file of their own because a bench refuses to continue a folder whose networks come from a changed file.
"""

from __future__ import annotations

import functools
from typing import Any

import torch
from torch import Tensor, nn

from egodistill import EgoDistill, Output, distill
from egodistill.distillation import Distill
from egodistill.student import perceptron

RANK = 64  # of the product of object and motion
MISSING = 0.15  # share of clips that lack frames, and as many that lack head motion, if they are drawn


class Zeros(EgoDistill):
    """Zeros, which nothing learns, stand for what is missing."""

    def __init__(self, *args: Any, **options: Any) -> None:
        super().__init__(*args, **options)
        for name in ("no_frames", "no_imu"):
            values = getattr(self, name).data
            delattr(self, name)
            self.register_buffer(name, values)


class GatedFusion(nn.Module):
    """The paper's fusion network behind a gate: a share of the head motion's numbers, from 0 to 1, that they decide.

    Args:
        image: Size of the image feature.
        imu: Size of the IMU feature.
        size: D.
    """

    def __init__(self, image: int, imu: int, size: int) -> None:
        super().__init__()
        self.gate = perceptron(imu, [64], 1)
        self.layers = perceptron(image + imu, [1024] * 2, size)

    def forward(self, image: Tensor, imu: Tensor) -> Tensor:
        return self.layers(torch.cat([image, self.gate(imu).sigmoid() * imu], 1))


class BilinearFusion(nn.Module):
    """The paper's fusion network, with a product of rank `RANK` of both features beside them. Args: `GatedFusion`."""

    def __init__(self, image: int, imu: int, size: int) -> None:
        super().__init__()
        self.image, self.imu = nn.Linear(image, RANK), nn.Linear(imu, RANK)
        self.layers = perceptron(image + imu + RANK, [1024] * 2, size)

    def forward(self, image: Tensor, imu: Tensor) -> Tensor:
        return self.layers(torch.cat([image, imu, self.image(image) * self.imu(imu)], 1))


def fused(kind: type[nn.Module], num_classes: int, **options: Any) -> EgoDistill:
    """Return a student whose fusion network is of this kind."""
    plain = EgoDistill(num_classes, **options | {"optional_inputs": False})
    image = 512 if plain.num_frames > 1 else plain.image_dim
    fusion = kind(image, plain.imu_dim, plain.feature_dim)
    return EgoDistill(num_classes, **options | {"fusion": fusion})


gated, bilinear = functools.partial(fused, GatedFusion), functools.partial(fused, BilinearFusion)


class Whole(Distill):
    """Each alone weighs as much as both together."""

    alone = 1.0


class Quarter(Distill):
    alone = 0.25


class FramesToo(Distill):
    """Beside both, frames alone; no step is without frames."""

    def outputs(self, *inputs: Tensor) -> list[Output]:
        return super().outputs(*inputs)[:2]


class Drawn(Distill):
    """Of each clip one output: with both, or with frames or head motion alone, by draw; no further loss."""

    def outputs(self, *inputs: Tensor) -> list[Output]:
        model: Any = self.model
        if not self.training:
            return [model(*inputs)]
        image, motion = model.aggregate(model.encode_frames(inputs[0])), model.encode_imu(inputs[1])
        draw = torch.rand(len(image), 1, device=image.device)
        image = torch.where(draw < MISSING, model.no_frames, image)
        return [model.fuse(image, torch.where(draw > 1 - MISSING, model.no_imu, motion))]


STAGES = {kind.__name__: functools.partial(distill, objective=kind) for kind in (Whole, Quarter, FramesToo, Drawn)}
