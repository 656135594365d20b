"""ListenToLook, a baseline of the paper: one frame and sound, distilled from a teacher; the IMG-AUD network.

    from egodistill import distill
    from lab import listen_to_look

    model = listen_to_look.ListenToLook(len(train.class_names), feature_dim=768)
    distill(model, train, teacher="motionformer")

Gao et al., "Listen to Look: Action Recognition by Previewing Audio", CVPR 2020; outputs equal those of the released
code (facebookresearch/Listen-to-Look).
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor, nn

from egodistill import student
from egodistill.engine import checkpoints, models
from egodistill.support.defaults import CLIP_SECONDS
from lab.audio import AUDIO_BANDS, AUDIO_STEPS
from lab.baselines import IMAGENET, Baseline, BaselineError, build_resnet, half_size, load_pretrained

__all__ = ["ListenToLook"]


class AudioNet(nn.Module):
    """A ResNet-18 on a log-mel spectrogram: [B, steps, bands] -> [B, 8 * width].

    Its stem has stride 1. A 1x1 convolution, with the frequency axis as its channels, reduces that axis to one value;
    then the maximum over time is taken.
    """

    def __init__(self, bands: int, depths: Sequence[int], width: int) -> None:
        super().__init__()
        self.resnet = build_resnet(student.BasicBlock, depths, width, channels=1, stem_stride=1)
        for _ in range(4):
            bands = half_size(bands)
        self.frequency = nn.Conv2d(bands, 1, 1)

    def forward(self, spectrogram: Tensor) -> Tensor:
        maps = self.resnet.maps(spectrogram[:, None])  # [B, D, t, f]
        return self.frequency(maps.permute(0, 3, 2, 1)).squeeze(1).amax(1)


class ListenToLook(Baseline):
    """A network for one or more frames and the clip's sound -> the teacher's feature and class logits.

    The model takes frames uint8 [B, N, 3, H, W] and the sound as a log-mel spectrogram, float [B, steps, bands], as
    written by `audio.add_sound()` and computed by `audio.log_mel()`. Train it with `distill()`; the authors'
    own distillation, L1 of the features and divergence of the class scores, is `distill(..., alpha=1)`.

    Args:
        num_classes: C.
        feature_dim: D, the size of the teacher's feature. 512 is the original's, and results in the paper's 25.53 M
            parameters; `distill()` from a teacher with 768 needs 768 (25.81 M).
        num_frames: N. The image features of several frames go through a GRU, whose last state is used.
        gru: True: a single frame goes through the GRU, too, as in the paper's parameter count. None: only several
            frames do.
        frame_size: Height and width of the frames in pixels.
        width: Channels of both stems.
        depths: Number of blocks per stage, of both networks.
        hidden: Width of the fusion network's hidden layer.
        audio_steps: Number of time steps of the spectrogram. 201 steps of 10 ms (2.0 s of the longer clip) result in
            the paper's operation count.
        mel_bands: Number of bands of the spectrogram; the released network fits 33 to 48, of which we chose 40.
        clip_seconds: Length of a clip in seconds.
        weights: "imagenet" (torchvision downloads them), a ResNet-18 state dict of torchvision or the path of one, for
            both networks except the sound's stem; or None for random.
        class_names: C names; None: training takes them from the store.

    Raises:
        BaselineError: If an argument or an input does not fit.

    >>> import torch
    >>> from egodistill import data
    >>> from lab import listen_to_look
    >>> model = listen_to_look.ListenToLook(
    ...     8, feature_dim=48, frame_size=64, width=4, depths=(1, 1, 1, 1), hidden=16, weights=None
    ... ).eval()
    >>> store = data.ClipStore("store")
    >>> frames, audio = (torch.from_numpy(store.read(name, [0, 1, 2])) for name in ("frames_1", "audio"))
    >>> feature, logits = model(frames, audio)
    >>> feature.shape, logits.shape
    (torch.Size([3, 48]), torch.Size([3, 8]))
    """

    file_class = "ListenToLook"
    inputs = ("frames", "audio")

    @student.record_arguments("weights", "class_names")
    def __init__(
        self,
        num_classes: int,
        *,
        feature_dim: int = 512,
        num_frames: int = 1,
        gru: bool | None = None,
        frame_size: int = 224,
        width: int = 64,
        depths: Sequence[int] = (2, 2, 2, 2),
        hidden: int = 1024,
        audio_steps: int = AUDIO_STEPS,
        mel_bands: int = AUDIO_BANDS,
        clip_seconds: float = CLIP_SECONDS,
        weights: student.Weights = "imagenet",
        class_names: list[str] | None = None,
    ) -> None:
        super().__init__(IMAGENET, num_classes, num_frames, frame_size, width, clip_seconds, class_names)
        if gru is False and num_frames > 1:
            raise BaselineError(f"ListenToLook: num_frames={num_frames} needs the GRU; leave gru out")
        if audio_steps < 1 or mel_bands < 1:
            raise BaselineError(f"ListenToLook: audio_steps={audio_steps} and mel_bands={mel_bands} must be at least 1")
        self.feature_dim, self.audio_steps, self.mel_bands = feature_dim, audio_steps, mel_bands
        self.input_shapes = {"audio": (audio_steps, mel_bands)}
        self.image = build_resnet(student.BasicBlock, depths, width)
        self.audio = AudioNet(mel_bands, depths, width)
        size = self.image.feature_dim
        self.gru = nn.GRU(size, size, batch_first=True) if gru or num_frames > 1 else None
        self.fusion = nn.Sequential(nn.Linear(2 * size, hidden), nn.ReLU(), nn.Linear(hidden, feature_dim))
        self.classifier = nn.Linear(feature_dim, num_classes)
        for layer in (self.audio.resnet.conv1, self.audio.frequency, self.fusion[0], self.fusion[2], self.classifier):
            nn.init.normal_(layer.weight, std=0.02)
        if weights is not None:
            state, source = load_pretrained(weights, "imagenet", "ResNet18_Weights.IMAGENET1K_V1", "fc.")
            checkpoints.load_strictly(self.image, state, source)
            state = {key: value for key, value in state.items() if key != "conv1.weight"}
            checkpoints.load_strictly(self.audio.resnet, state, source, keep=["conv1."])

    def forward(self, frames: Tensor, audio: Tensor) -> student.Output:
        student.require_tensor("audio", audio)
        if audio.ndim != 3 or audio.shape[2] != self.mel_bands or not audio.is_floating_point():
            raise BaselineError(
                f"ListenToLook reads sound as a float spectrogram [batch, steps, {self.mel_bands}]; "
                f"got {student.describe(audio)}"
            )
        return self.encode(self.pixels(frames), audio)

    def encode(self, pixels: Tensor, spectrogram: Tensor) -> student.Output:
        """Return the outputs for normalised frames and their sound.

        Args:
            pixels: Frames from `pixels()`, float [B, N, 3, H, W].
            spectrogram: float [B, steps, bands].
        """
        image = self.aggregate(self.image.maps(pixels.flatten(0, 1)).mean((2, 3)).unflatten(0, pixels.shape[:2]))
        feature = self.fusion(torch.cat([image, self.audio(spectrogram)], dim=1))
        return student.Output(feature, self.classifier(feature))

    def aggregate(self, features: Tensor) -> Tensor:
        """Return one image feature of all frames, [B, d].

        Args:
            features: [B, N, d], of each frame.
        """
        return features[:, 0] if self.gru is None else self.gru(features)[1][-1]


models.register(ListenToLook)
