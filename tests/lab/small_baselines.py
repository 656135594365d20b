"""Small AdaFuse, STTS and ListenToLook, and a store for them, which several test files use."""

import zlib

import numpy as np
import torch
import toys
from torch.nn import functional as F
from toys import CLASSES

from egodistill import inference
from lab.adafuse import AdaFuse
from lab.listen_to_look import ListenToLook
from lab.stts import STTS

META = torch.device("meta")
# As small as they get.
FUSE = {"width": 8, "depths": (1, 1, 1, 1), "frame_size": 32, "policy_hidden": 16, "weights": None}
TOKENS = {"width": 8, "depths": (1, 1, 2, 1), "frame_size": 64, "weights": None, "samples": 50}
LISTEN = {"width": 8, "depths": (1, 1, 1, 1), "frame_size": 32, "hidden": 32, "audio_steps": 21, "weights": None}


def small_adafuse(seed=0, **options):
    torch.manual_seed(seed)
    return AdaFuse(4, **FUSE | options)


def small_stts(seed=0, **options):
    torch.manual_seed(seed)
    return STTS(4, **TOKENS | options)


def listener(seed=0, **options):
    torch.manual_seed(seed)
    return ListenToLook(4, **LISTEN | {"feature_dim": 12} | options)


SMALL = [small_adafuse, small_stts, listener]


class Store(toys.Arrays):
    """A store in memory. The class is told by the colour of the second half of the frames, and by the pitch."""

    def __init__(self, clips=16, size=32, seed=0):
        rng = np.random.default_rng(seed)
        self.class_names, self.path, self.reads, self.fail_at = CLASSES, None, 0, None
        self.labels, self.segments = np.arange(clips) % 4, np.arange(clips)
        colours = np.array([[220, 30, 30], [30, 220, 30], [30, 30, 220], [200, 200, 200]])[self.labels]
        frames = rng.integers(-30, 30, (clips, 4, 3, size, size)) + 60
        frames[:, 2:] += colours[:, None, :, None, None] - 60
        tones = np.zeros((clips, 21, 40))
        tones[np.arange(clips), :, 9 * self.labels + 5] = 5.0  # the band of a pitch of its own
        self.arrays = {
            "frames_4": frames.clip(0, 255).astype(np.uint8),
            # Says nothing: each picture is there with every class.
            "frames_1": rng.integers(0, 256, (clips // 4, 1, 3, size, size), dtype=np.uint8).repeat(4, axis=0),
            "audio": (tones + rng.normal(0, 0.1, tones.shape)).astype(np.float32),
            "t.feature": rng.normal(size=(4, 12)).astype(np.float32)[self.labels],
            "t.logits": 8 * np.eye(4, dtype=np.float32)[self.labels],
        }

    def read(self, name, index):
        self.reads += 1
        if self.fail_at is not None and self.reads > self.fail_at:
            raise InterruptedError("killed")
        return super().read(name, index)


def cost(model):
    return sum(p.numel() for p in model.parameters()), inference.count_macs(model, META) / 1e9


def always(action):
    """A `decide` that does the same to every channel."""

    def decide(policy, x, count):
        channels = policy.fc1.out_features // 3
        return F.one_hot(torch.full((len(x) // count, count, channels), action), 3).float()

    return decide


# --- Golden vectors: what the released code gave for weights and inputs that follow from their names


def draw(name):
    return np.random.default_rng(zlib.crc32(name.encode()))


def given(name, shape, scale):
    return torch.tensor((scale * draw(f"input:{name}").standard_normal(shape)).astype(np.float32))


def close(ours, wanted, tolerance):
    assert tuple(ours.shape) == wanted.shape
    np.testing.assert_allclose(ours.detach().numpy(), wanted, rtol=0, atol=tolerance)
