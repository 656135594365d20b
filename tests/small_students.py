"""Untrained students that are quick to export, and clips for them.

Their batch norms are moved off their start, and the clips have gravity and colour: a file without normalisation,
without the IMU's mean, or with a transposed axis gives other outputs.
"""

import json

import numpy as np
import torch
import toys
from torch import nn

from egodistill import EgoDistill, Output
from egodistill.deploy import descriptions, export

CLASSES = ["close", "open", "put", "take"]


class Pooled(nn.Module):
    """An image network of one convolution, as a file of one's own has it: most of the time of an export is tracing."""

    feature_dim = 16

    def __init__(self):
        super().__init__()
        self.layers = nn.Sequential(nn.Conv2d(3, 16, 4, 4), nn.BatchNorm2d(16), nn.ReLU(), nn.AdaptiveAvgPool2d(1))

    def forward(self, pixels):
        return self.layers(pixels).flatten(1)


def student(seed=0, **arguments) -> EgoDistill:
    torch.manual_seed(seed)
    options = {
        "feature_dim": 12,
        "image_weights": None,
        "frame_size": 32,
        "hidden": 32,
        "class_names": CLASSES,
        "image_encoder": "squeezenet1_1",
    }
    model = EgoDistill(4, **(options | arguments)).eval()
    for module in model.modules():
        if isinstance(module, (nn.BatchNorm1d, nn.BatchNorm2d)):
            nn.init.normal_(module.running_mean, 0, 0.1)
            nn.init.uniform_(module.running_var, 0.5, 1.5)
        elif isinstance(module, (nn.Conv1d, nn.Linear)):  # torch's own start makes all clips look nearly alike.
            nn.init.kaiming_normal_(module.weight)
            nn.init.zeros_(module.bias)
    with torch.no_grad():  # Labels depend on the clip: no class is ahead in all of them.
        model.classifier.bias -= model(*inputs(model, 12)).logits.mean(0)
    return model


def pooled(seed=0, **arguments) -> EgoDistill:
    """The student whose exports are quickest. It cannot be loaded by a command, as its image network has no name."""
    return student(seed, **({"image_encoder": Pooled} | arguments))


def optional(**arguments) -> EgoDistill:
    """A student that can do without frames or head motion, with what stands for them not far from what it has."""
    model = pooled(optional_inputs=True, **arguments)
    frames, imu = inputs(model, 12)
    with torch.no_grad():
        for vector, known in (
            (model.no_frames, model.aggregate(model.encode_frames(frames))),
            (model.no_imu, model.encode_imu(imu)),
        ):
            vector.copy_(known.mean(0, keepdim=True) + known.std() * torch.randn_like(vector))
    return model


class Clips(toys.Arrays):
    """The first of 40 clips in memory, with other colours for the three channels and gravity in the accelerometer."""

    def __init__(self, model: EgoDistill, count=12):
        rng = np.random.default_rng(0)
        size, frames = model.frame_size, model.num_frames
        colour = rng.integers(0, 256, (40, frames, 3, 1, 1))
        pixels = (colour + rng.integers(-40, 40, (40, frames, 3, size, size))).clip(0, 255).astype(np.uint8)
        imu = rng.normal([0, 0, 9.8, 0.3, 0, 0], 1, (40, model.imu_samples, 6)).astype(np.float32)
        self.arrays = {f"frames_{frames}": pixels[:count], "imu": imu[:count]}
        self.class_names, self.labels = CLASSES, np.arange(count) % 4
        self.segments = np.arange(count)


def inputs(model: EgoDistill, count: int) -> tuple[torch.Tensor, ...]:
    return next(export.store_clips(model, Clips(model, count)))


def original(model: EgoDistill, *clips: torch.Tensor) -> Output:
    with torch.no_grad():
        return model(*clips)


def assert_same(model: EgoDistill, file, tolerance=1e-5, load=export.load_exported) -> None:
    """Feature and logits, for one clip and for more than the file was traced with."""
    run = load(file)
    for count in (1, 3):
        clips = inputs(model, count)
        expected, given = original(model, *clips), run(*clips)
        assert isinstance(given, Output)
        assert given.feature.shape == (count, 12) and given.logits.shape == (count, 4)
        sums = expected.feature, expected.logits - model.classifier.bias.detach()  # The bias takes much away.
        for one, other, size in zip(given, expected, sums, strict=True):
            assert one.dtype == torch.float32
            torch.testing.assert_close(one, other, atol=tolerance * float(size.abs().max()), rtol=0)


def rewrite(file, change, *, seal=True) -> None:
    """Change the description of an exported file; sealed, with new hashes, as somebody would who means it."""
    described = descriptions.description_of(file)
    content = json.loads(described.read_text(encoding="utf-8"))
    change(content)
    if seal:
        content = descriptions.seal(content, file)
    described.write_text(json.dumps(content), encoding="utf-8")
