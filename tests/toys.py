"""Small students and stores in memory, for tests."""

import numpy as np
import torch
from torch import nn

from egodistill import IMU_SAMPLES, EgoDistill, Output
from egodistill.distillation import Distill

CLASSES = ["close", "open", "put", "take"]


class Arrays:
    """A store in memory: a subclass sets `arrays`, {name: array}, and `labels`."""

    def __len__(self):
        return len(self.labels)

    @property
    def names(self):
        return list(self.arrays)

    def read(self, name, index):
        return self.arrays[name][index].copy()


class Store(Arrays):
    """A store in memory. The class is told by the frame's colour (pair) and the sign of a ramp in the gyroscope."""

    def __init__(self, clips=32, size=32, seed=0, feature_dim=12):
        rng = np.random.default_rng(seed)
        self.class_names, self.path = CLASSES, None
        self.labels = np.arange(clips) % 4
        self.segments = np.arange(clips)
        colour = np.array([40, 40, 210, 210])[self.labels][:, None, None, None]
        sign = np.where(self.labels % 2, 1.0, -1.0)[:, None, None]
        frame = (colour + rng.integers(-30, 30, (clips, 3, size, size))).astype(np.uint8)
        ramp = np.zeros((clips, IMU_SAMPLES, 6))
        ramp[:, :, 5:] = sign * np.linspace(-1, 1, IMU_SAMPLES)[None, :, None]
        imu = ramp + rng.normal(0, 0.1, ramp.shape) + rng.normal(0, 3, (clips, 1, 6))  # bias and gravity
        self.arrays = {
            "frames_1": frame[:, None],
            "ends": np.stack([frame, frame[:, :, ::-1]], 1),
            "imu": imu.astype(np.float32),
            "t.feature": rng.normal(size=(4, feature_dim)).astype(np.float32)[self.labels],
            "t.logits": (8 * np.eye(4, dtype=np.float32) + rng.normal(0, 0.1, (4, 4)).astype(np.float32))[self.labels],
        }


class Named(Store):
    """Clips have ids, as in data.ClipStore."""

    @property
    def clips(self):
        return [{"id": f"clip-{k}"} for k in range(len(self))]


def small(seed=0, **arguments):
    torch.manual_seed(seed)
    encoder = {"image_encoder": "resnet10x16", "image_weights": None, "frame_size": 32}
    return EgoDistill(4, **{"feature_dim": 12, "hidden": 32} | encoder | arguments)


def settle(encoder, seed=0):
    """Give the batch norms of an encoder statistics as after a training."""
    draw = torch.Generator().manual_seed(seed)
    for norm in encoder.modules():
        if isinstance(norm, nn.BatchNorm1d):
            norm.running_mean.normal_(generator=draw)
            norm.running_var.uniform_(0.5, 1.5, generator=draw)
    return encoder.eval()


QUIET = {"progress": False, "device": "cpu"}


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


FAST = {"epochs": 12, "batch_size": 8, "learning_rate": 2e-3, "decay_epochs": (9,), **QUIET}


class Moved(nn.Module):
    """An IMU encoder of one's own: how large each channel is."""

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 3)

    def forward(self, imu):
        return self.layer(imu.abs().mean(1))


class Joined(nn.Module):
    """A fusion network of one's own, for any features."""

    def __init__(self, size):
        super().__init__()
        self.layer = nn.LazyLinear(size)

    def forward(self, image, imu):
        return self.layer(image if imu is None else torch.cat([image, imu], dim=1))


def joined_768():
    return Joined(768)


def joined_12():
    return Joined(12)


class Calm(EgoDistill):
    """A student of one's own class: its scores are halved."""

    def fuse(self, image, imu):
        feature, logits = super().fuse(image, imu)
        return Output(feature, logits / 2)


class Cosine(Distill):
    """Losses of one's own: the angle between the features instead of L_1, and no L_KD."""

    def feature_loss(self, student, teacher):
        return 1 - nn.functional.cosine_similarity(student.feature, teacher.feature)

    def logit_loss(self, student, teacher):
        return 0 * student.logits.sum(1)
