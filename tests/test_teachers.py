"""Teachers: the published models number by number, the face of all teachers, extract()."""

import argparse
import copy
import json
import math
import os
import re
import shutil
import signal
import subprocess
import sys
import threading
import time
import zlib
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import torch
from painted import break_packets, write_video
from small_teachers import LABELS, NARROW, SMALL, gmacs, meta, narrow, random_clips, small
from torch import nn
from torchvision.models.video import r3d_18, swin3d_t

from egodistill import (
    DataError,
    EgoDistill,
    EgoDistillError,
    Output,
    batches,
    data,
    distillation,
    files,
    pretrain_imu,
    teachers,
)
from egodistill.clips import ClipSpec
from egodistill.one_pass import Pending, Together
from egodistill.store import StoreWriter, outputs_record
from egodistill.store_files import StoreFiles

# --- the published models --------------------------------------------------------------------


def fill(key, shape):
    """The value that the golden vectors were made with: a function of a parameter's name."""
    rng = np.random.default_rng([zlib.crc32(key.encode()), 0])
    if key.endswith("num_batches_tracked"):
        return np.zeros(shape, np.int64)
    if key.endswith("running_var"):
        return np.float32(0.5 + rng.random(shape))
    value = rng.standard_normal(shape)
    if key.endswith((".bias", "running_mean")):
        value *= 0.1
    elif key.endswith(".weight"):
        value = value / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 1 + 0.1 * value
    else:  # tokens and positions
        value *= 0.2
    return np.float32(value)


@pytest.fixture(scope="module")
def golden(sample_data):
    """(manifest, folder) of the outputs of the official code."""
    folder = sample_data.parent / "reference" / "teachers"
    if not (folder / "manifest.json").is_file():
        pytest.skip(f"needs the golden vectors of the official code in {folder}")
    manifest = json.loads((folder / "manifest.json").read_text())
    for key, shape in (
        ("s1.pathway0_stem.bn.running_var", (64,)),
        ("cls_token", (1, 1, 768)),
        ("patch_embed.proj.weight", (96, 3, 3, 7, 7)),
    ):
        probe = manifest["probe"][f"{key} ({','.join(map(str, shape))})"]
        np.testing.assert_allclose(fill(key, shape).ravel()[:5], probe, rtol=1e-6)
    return manifest, folder


GOLDEN = {
    "motionformer_ek_224_16x4": ("epic_motionformer_16x4", {}),
    "motionformer_ek_224_16x4_projected_v": (
        "epic_motionformer_16x4",
        {"value_step": "projected"},
    ),
    "slowfast_8x8_r50_224_pyslowfast": ("slowfast_8x8_r50", {}),
    "slowfast_8x8_r50_256_pyslowfast": ("slowfast_8x8_r50", {"size": 256}),
    "slowfast_8x8_r50_224_pytorchvideo": ("slowfast_8x8_r50", {}),
    "slowfast_8x8_r50_256_pytorchvideo": ("slowfast_8x8_r50", {"size": 256}),
    "x3d_m_224_pyslowfast": ("x3d_m", {}),
    "x3d_m_256_pyslowfast": ("x3d_m", {"size": 256}),
    "x3d_m_224_pytorchvideo": ("x3d_m", {}),
    "x3d_m_256_pytorchvideo": ("x3d_m", {"size": 256}),
    "mvit_b_16x4_224_pyslowfast": ("mvit_b_16x4", {}),
    "mvit_b_16x4_224_pytorchvideo": ("mvit_b_16x4", {}),
    "mvit_b_16x4_224_torchvision": ("mvit_b_16x4", {}),
}


@pytest.mark.parametrize("case", GOLDEN)
def test_it_equals_the_official_code(golden, case):
    """Through load(), from the official layout; about 2 GB and half a minute for the largest."""
    manifest, folder = golden
    assert set(GOLDEN) == set(manifest["cases"])
    about = manifest["cases"][case]
    layout = manifest["layouts"][about["layout"]]
    state = {k: torch.as_tensor(fill(k, tuple(shape))) for k, shape in layout["keys"].items()}
    name, options = GOLDEN[case]
    teacher = teachers.load(name, state, progress=False, **options)
    assert sum(p.numel() for p in teacher.parameters()) == layout["parameters"]
    assert f"{layout['num_keys']} tensors" in teacher.origin

    clip = np.random.default_rng(0).standard_normal(about["clip_shape"], np.float64)
    clip = torch.from_numpy(clip.astype(np.float32))
    with np.load(folder / about["file"]) as official, torch.no_grad():
        several = hasattr(teacher.net, "positions")
        feature, logits = (teacher.net.positions if several else teacher.encode)(clip)
        found = {"feature": feature, "logits": logits}
        if "noun_logits" in official:
            found["verb_logits"] = found.pop("logits")
            found["noun_logits"] = teacher.net.head1(found["feature"])
        for array, values in found.items():
            wanted = official[array]
            if several and wanted.ndim == 2:  # one position, which the file leaves out
                wanted = wanted[:, None, None]
            assert values.shape == wanted.shape
            np.testing.assert_allclose(values, wanted, rtol=about["rtol"], atol=about["atol"])


@pytest.mark.parametrize(
    ("name", "options", "parameters", "wanted"),
    [
        # What the EgoDistill paper counts: 108.91 M, and 369.51 G with 0.15 G of LayerNorms.
        ("epic_motionformer_16x4", {"num_classes": 97, "fast": False}, 108_911_713, 369.35850),
        ("epic_motionformer_16x4", {"fast": False}, 109_142_413, 369.35850),  # one head runs
        ("epic_motionformer_16x4", {}, 109_142_413, 204.15823),
        ("motionformer_16x4", {}, 109_144_720, 204.15847),
        ("slowfast_8x8_r50", {}, 34_566_488, 50.30858),
        ("slowfast_8x8_r50", {"size": 256}, 34_566_488, 65.71165),
        ("x3d_m", {}, 3_794_322, 4.73247),
        ("x3d_m", {"first_shortcut_norm": False}, 3_794_274, 4.73247),
        ("x3d_m", {"size": 256}, 3_794_322, 6.18573),
        ("mvit_b_16x4", {}, 36_610_672, 70.59941),
    ],
)
def test_size_and_cost_of_the_published_models(name, options, parameters, wanted):
    teacher = meta(name, **options)
    assert sum(parameter.numel() for parameter in teacher.parameters()) == parameters
    assert gmacs(teacher) == pytest.approx(wanted, abs=6e-6)


@pytest.mark.parametrize(("name", "millions", "wanted"), [("xs", 3.8, 0.60), ("s", 3.8, 1.96), ("l", 6.2, 18.37)])
def test_size_and_cost_of_the_other_x3d(name, millions, wanted):
    """PySlowFast's model zoo has these numbers."""
    teacher = meta(f"x3d_{name}")
    assert sum(p.numel() for p in teacher.parameters()) / 1e6 == pytest.approx(millions, abs=0.05)
    assert gmacs(teacher) == pytest.approx(wanted, abs=0.0065)


@pytest.mark.parametrize("name", teachers.MODELS)
def test_every_name_builds_its_model(name):
    teacher = meta(name)
    spec = teacher.clip_spec
    frames, rate = next((int(a), int(b)) for a, b in re.findall(r"(\d+)x(\d+)", f"{name} 8x8"))
    if name.startswith("x3d"):
        frames, rate = {"xs": (4, 12), "s": (13, 6)}.get(name[4:], (16, 5))
    if name == "i3d":
        frames, rate = 32, 2
    if name.startswith("slowfast"):
        assert len(teacher.net.slow_index) == frames
        frames, rate = 32, 2
    assert (spec.frames, spec.seconds) == (frames, frames * rate / 30)
    assert (spec.sampling, spec.crop) == ("uniform", True)
    assert (teacher.pixels.channels == "BGR") == name.startswith("epic")
    half = "motionformer" in name or name == "i3d"
    assert teacher.pixels.mean[0] == teacher.pixels.mean[2] == (0.5 if half else 0.45)
    assert len(teacher.class_names) == (97 if name.startswith("epic") else 400)
    assert teacher(batches.example_inputs(teacher, 2)[0].to("meta")).feature.shape == (2, teacher.feature_dim)
    published = teachers.MODELS[name]
    assert published.released or name == "motionformer_16x8"
    assert all(file.startswith("ek_") == name.startswith("epic") for file in published.released)


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("motionformer_16x4", {"frames": 5}, ["tubelet=2", "frames=5"]),
        ("motionformer_16x4", {"heads": 5}, ["heads=5", "width=24"]),
        ("motionformer_16x4", {"value_step": "both"}, ["value_step", "'both'", "projected"]),
        ("motionformer_16x4", {"num_classes": (1, 2, 3)}, ["(1, 2, 3)"]),
        ("mvit_b_16x4", {"size": 30}, ["size=30"]),
        ("x3d_m", {"pool": 0}, ["pool=0"]),
        ("i3d", {"width": 20}, ["width=20", "multiple of 8"]),
        ("i3d", {"centre_size": 0}, ["centre_size=0"]),
        ("x3d_m", {"colour": 1}, ["x3d_m", "'colour'", "depth_factor", "channels"]),
        ("x3d_m", {"class_names": ["a", "b"], "num_classes": 3}, ["2 class names", "3 classes"]),
        ("x3d_m", {"class_names": ["a"], "num_classes": 3}, ["1 class names"]),
        ("x3d_m", {"num_classes": 0}, ["x3d_m", "one class or more"]),
        ("x3d_m", {"class_names": [], "num_classes": None}, ["x3d_m", "one class or more"]),
    ],
)
def test_impossible_models_are_refused(name, options, words):
    with pytest.raises(teachers.TeacherError) as caught:
        teachers.load(name, progress=False, **{**SMALL[name], "num_classes": 3, **options})
    assert all(word in str(caught.value) for word in words)


def test_unknown_names_are_refused():
    with pytest.raises(teachers.TeacherError, match=r"'x3d'.*x3d_m"):
        teachers.load("x3d")


@pytest.mark.parametrize("name", ["motionformer_16x4", "mvit_b_16x4", "x3d_m", "i3d"])
def test_the_others_learn_too(name):
    """Fresh weights fit eight clips that differ only in the order of their frames."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    options = {"dropout": 0.0} if name != "motionformer_16x4" else {}
    if name not in ("x3d_m", "i3d"):
        options["drop_path"] = 0.0
    spec = {**SMALL[name], "frames": 8, **options}
    net = teachers.load(name, None, 2, progress=False, **spec).net.train()
    forwards = torch.randn(4, 3, 1, 32, 32) + torch.linspace(-2, 2, 8).view(1, 1, 8, 1, 1)
    clips, labels = torch.cat([forwards, forwards.flip(2)]), torch.tensor([0] * 4 + [1] * 4)
    optimiser = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(20):
        loss = nn.functional.cross_entropy(net(clips)[1], labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.1


@pytest.mark.parametrize("name", ["motionformer_16x4", "mvit_b_16x4", "x3d_m", "i3d"])
def test_the_others_in_mixed_precision(name):
    teacher = teachers.load(name, None, 3, progress=False, **SMALL[name])
    clip = torch.from_numpy(random_clips(4, frames=teacher.clip_spec.frames))
    with torch.no_grad():
        plain = teacher(clip).feature
    with torch.autocast("cpu", torch.bfloat16):
        found, logits = teacher(clip)
        assert not torch.equal(found.float(), plain)  # it was used
    assert nn.functional.cosine_similarity(found.float(), plain).min() > 0.99
    logits.float().logsumexp(1).sum().backward()
    learnt = [p.grad for p in teacher.parameters() if p.grad is not None]
    assert len(learnt) > 20 and all(gradient.isfinite().all() for gradient in learnt)


# --- what all teachers share -----------------------------------------------------------------


class Recorder(nn.Module):
    """A network that keeps what it got."""

    def forward(self, x):
        self.x = x
        return x.mean((2, 3, 4)), x.mean((2, 3, 4))[:, :2]


def recorder(name="recorder", spec=None, **pixels):
    about = {"feature_dim": 3, "class_names": ["a", "b"], "name": name, "pixels": teachers.Pixels(**pixels)}
    return teachers.Teacher(Recorder(), clip_spec=spec or ClipSpec(frames=2, size=4), **about)


@pytest.mark.parametrize("channels", ["RGB", "BGR"])
def test_normalisation_by_hand(channels):
    teacher = recorder(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.125), channels=channels)
    clip = random_clips(2, frames=2, size=4)
    output = teacher(torch.from_numpy(clip))
    assert isinstance(output, Output)
    assert teacher.net.x.shape == (2, 3, 2, 4, 4)  # [B, 3, T, H, W]
    for channel, (mean, std) in enumerate([(0.1, 0.5), (0.2, 0.25), (0.3, 0.125)]):
        source = channel if channels == "RGB" else 2 - channel
        wanted = (clip[:, :, source] / 255 - mean) / std
        np.testing.assert_allclose(teacher.net.x[:, channel], wanted, atol=1e-5)


def test_other_sizes_are_resized_without_aliasing():
    teacher = recorder(mean=(0, 0, 0), std=(1, 1, 1))
    clip = torch.zeros(1, 2, 3, 16, 32, dtype=torch.uint8)
    clip[..., ::4, :] = 255  # rows that plain bilinear sampling misses
    clip[:, 1] //= 5
    teacher(clip)
    assert teacher.net.x.shape == (1, 3, 2, 4, 4)
    inner = teacher.net.x[0, 0, :, 1:3]  # away from the border
    np.testing.assert_allclose(inner[0], 0.25, atol=0.01)
    np.testing.assert_allclose(inner[1], 0.05, atol=0.01)


@pytest.mark.parametrize(
    ("clip", "came"),
    [
        (torch.zeros(1, 2, 3, 4, 4), "torch.float32 [1, 2, 3, 4, 4]"),
        (torch.zeros(1, 3, 2, 4, 4, dtype=torch.uint8), "torch.uint8 [1, 3, 2, 4, 4]"),
        (torch.zeros(1, 4, 3, 4, 4, dtype=torch.uint8), "torch.uint8 [1, 4, 3, 4, 4]"),
        (torch.zeros(2, 3, 4, 4, dtype=torch.uint8), "torch.uint8 [2, 3, 4, 4]"),
    ],
)
def test_errors_say_what_came_and_what_is_wanted(clip, came):
    with pytest.raises(teachers.TeacherError) as caught:
        recorder()(clip)
    assert came in str(caught.value)
    assert "torch.uint8 [B, 2, 3, H, W]" in str(caught.value)


def test_outputs_of_another_shape_are_refused():
    spec = ClipSpec(frames=2, size=4)
    teacher = teachers.Teacher(Recorder(), clip_spec=spec, feature_dim=3, class_names=["a", "b", "c"])
    with pytest.raises(teachers.TeacherError, match=r"\(1, 2\).*\(1, 3\)"):
        teacher(torch.zeros(1, 2, 3, 4, 4, dtype=torch.uint8))


def test_bad_descriptions_are_refused():
    with pytest.raises(teachers.TeacherError, match="GBR"):
        teachers.Pixels(channels="GBR")
    with pytest.raises(teachers.TeacherError, match="std"):
        teachers.Pixels(std=(0.2, 0.2, 0.0))
    for bad in ({"std": (0.2, 0.2, math.nan)}, {"std": (0.2, 0.2, math.inf)}, {"mean": (0.5, math.nan, 0.5)}):
        with pytest.raises(teachers.TeacherError, match=rf"{next(iter(bad))} is .*(nan|inf).*finite"):
            teachers.Pixels(**bad)
    for spec, words in (
        (ClipSpec(size=32), "frames, one or more.*frames=0"),
        (ClipSpec(frames=8, imu_samples=422), "nothing else.*imu_samples=422"),
    ):
        with pytest.raises(teachers.TeacherError, match=words):
            recorder(spec=spec)
    with pytest.raises(teachers.TeacherError, match="2 class names"):
        teachers.load("slowfast_8x8_r50", None, 3, class_names=["a", "b"], frames=8, **NARROW)
    with pytest.raises(teachers.TeacherError, match="a/b"):
        recorder(name="a/b")
    with pytest.raises(teachers.TeacherError, match="'my teacher' becomes part of file names"):
        recorder().name = "my teacher"  # as `finetune --name` does


def test_factory_defaults_are_the_published_model():
    with torch.device("meta"):
        teacher = teachers.load("slowfast_8x8_r50", None, 5, progress=False)
    assert teacher.clip_spec == ClipSpec(frames=32, size=224, crop=True, seconds=64 / 30)
    assert teacher.pixels == teachers.Pixels((0.45,) * 3, (0.225,) * 3, "RGB")
    assert (teacher.feature_dim, teacher.name, teacher.inputs) == (2304, "slowfast_8x8_r50", ("clip",))
    assert teacher.class_names == ["0", "1", "2", "3", "4"]


def test_a_clip_is_the_centre_square_unless_it_says_otherwise():
    for given, crop in ((None, True), (True, True), (False, False)):
        assert recorder(spec=ClipSpec(frames=2, size=4, crop=given)).clip_spec.crop is crop
    unsaid = ClipSpec(frames=2, size=4, seconds=None, sampling=None)
    assert recorder(spec=unsaid).clip_spec == ClipSpec(frames=2, size=4, crop=True)


@pytest.mark.parametrize("name", SMALL)
def test_every_network_behind_the_face(name, tmp_path):
    """uint8 RGB of any size in, encode() of the clip normalised by hand out; kept by save()."""
    teacher = small(name)
    spec = teacher.clip_spec
    clip = random_clips(2, frames=spec.frames, size=spec.size)
    half = "motionformer" in name or name == "i3d"
    x = (clip / 255 - 0.5) / 0.5 if half else (clip / 255 - 0.45) / 0.225
    if name.startswith("epic"):  # OpenCV's order, in which they were trained
        x = x[:, :, ::-1]
    x = torch.from_numpy(np.float32(x.transpose(0, 2, 1, 3, 4)))
    with torch.no_grad():
        wanted, found = teacher.encode(x), teacher(torch.from_numpy(clip))
    for one, other in zip(found, wanted, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-4)
    assert found.feature.shape == (2, teacher.feature_dim) and not teacher.training
    torch.testing.assert_close(teacher.classifier(found.feature), found.logits)

    teacher.origin = "somewhere"
    teacher.save(tmp_path / "teacher.pt")
    copy = teachers.Teacher.load(tmp_path / "teacher.pt")
    with torch.no_grad():
        assert torch.equal(copy(torch.from_numpy(clip)).logits, found.logits)
    assert (copy.origin, copy.clip_spec, copy.name) == ("somewhere", spec, name)
    large = torch.from_numpy(random_clips(1, frames=spec.frames, size=2 * spec.size))
    assert teacher(large).logits.shape == (1, len(teacher.class_names))


@pytest.mark.parametrize("name", ["motionformer_16x4", "mvit_b_16x4", "x3d_m", "i3d"])
def test_clips_of_another_shape_are_refused_by_networks(name):
    net = small(name).net
    with pytest.raises(ValueError, match=r"\[1, 4, 8, 32, 32\].*\[B, 3, "):
        net(torch.zeros(1, 4, 8, 32, 32))


# --- other people's models -------------------------------------------------------------------


def test_wrap_takes_feature_and_logits_of_a_torchvision_model():
    torch.manual_seed(0)
    module = r3d_18(num_classes=3).eval()
    teacher = teachers.Teacher.wrap(
        module,
        feature_layer="fc",
        clip_spec=ClipSpec(frames=4, size=32),
        class_names=LABELS,
        name="r3d",
    )
    x = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        feature, logits = teacher.encode(x)
        trunk = nn.Sequential(*list(module.children())[:-1])(x).flatten(1)
        torch.testing.assert_close(feature, trunk)
        torch.testing.assert_close(logits, module(x))
    assert teacher.feature_dim == 512 and not module.fc._forward_hooks
    assert teacher(torch.zeros(1, 4, 3, 32, 32, dtype=torch.uint8)).logits.shape == (1, 3)
    with pytest.raises(teachers.TeacherError, match=r"torch\.save"):
        teacher.save("r3d.pt")
    with pytest.raises(teachers.TeacherError, match=r"'head'.*fc"):
        teachers.Teacher.wrap(module, feature_layer="head", clip_spec=ClipSpec(frames=4, size=32), class_names=LABELS)
    with pytest.raises(teachers.TeacherError, match="3 scores for 2"):
        teachers.Teacher.wrap(module, feature_layer="fc", clip_spec=ClipSpec(frames=4, size=32), class_names=["a", "b"])


def test_wrap_takes_a_video_transformer_in_one_line():
    torch.manual_seed(0)
    module = swin3d_t(num_classes=4).eval()
    spec = ClipSpec(frames=4, size=64)
    teacher = teachers.Teacher.wrap(module, feature_layer="head", clip_spec=spec)
    assert (teacher.feature_dim, teacher.name) == (768, "swintransformer3d")
    assert teacher.class_names == ["0", "1", "2", "3"] and teacher.classifier is module.head
    with torch.no_grad():
        feature, logits = teacher(*batches.example_inputs(teacher, 2))
        assert feature.shape == (2, 768)
        torch.testing.assert_close(logits, module.head(feature))
        x = torch.randn(1, 3, 4, 64, 64)
        torch.testing.assert_close(teacher.encode(x).logits, module(x))


class Positions(nn.Module):
    """Scores at every place, a softmax over them, then their mean, as many video models do."""

    def __init__(self, layer):
        super().__init__()
        self.layer = layer

    def forward(self, x):
        if isinstance(self.layer, nn.Linear):
            return self.layer(x.movedim(1, -1)).softmax(-1).mean((1, 2, 3))
        return self.layer(x).softmax(1).mean((2, 3, 4))


@pytest.mark.parametrize("layer", [nn.Linear(3, 2), nn.Conv3d(3, 2, 1)])
def test_wrap_averages_positions_and_leaves_out_the_softmax(layer):
    teacher = teachers.Teacher.wrap(
        Positions(layer),
        feature_layer="layer",
        clip_spec=ClipSpec(frames=2, size=4),
        class_names=["a", "b"],
    )
    x = torch.randn(2, 3, 2, 4, 4)
    feature, logits = teacher.encode(x)
    torch.testing.assert_close(feature, x.mean((2, 3, 4)))
    wanted = feature @ layer.weight.flatten(1).T + layer.bias
    torch.testing.assert_close(logits, wanted)


class Tail(nn.Module):
    """A classifier, called by keyword, and a layer after it."""

    def __init__(self, last):
        super().__init__()
        torch.manual_seed(0)
        self.fc, self.last = nn.Linear(3, 3), last

    def forward(self, x):
        return self.last(self.fc(input=x.mean((2, 3, 4))))


def test_wrap_keeps_scores_that_later_layers_change_in_place():
    spec = ClipSpec(frames=2, size=4)
    plain, changed, other = (
        teachers.Teacher.wrap(Tail(last), feature_layer="fc", clip_spec=spec, class_names=LABELS)
        for last in (nn.Identity(), nn.ReLU(inplace=True), nn.GELU())
    )
    x = torch.randn(4, 3, 2, 4, 4)
    assert (plain.encode(x).logits < 0).any()
    torch.testing.assert_close(changed.encode(x), plain.encode(x))
    assert len({teachers.fingerprint(one) for one in (plain, changed, other)}) == 3  # with equal weights
    assert teachers.fingerprint(plain) == teachers.fingerprint(copy.deepcopy(plain))
    with pytest.raises(teachers.TeacherError, match=r"Tail: fc.weight is torch.float16; call model.float"):
        teachers.Teacher.wrap(Tail(nn.Identity()).half(), feature_layer="fc", clip_spec=spec, class_names=LABELS)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_wrap_refuses_torchscript_whose_classifier_runs_no_hooks():
    plain = Tail(nn.Identity()).eval()
    script = torch.jit.script(plain)
    part = nn.Sequential(torch.jit.script(nn.Identity()), Tail(nn.Identity()))
    spec = ClipSpec(frames=2, size=4)
    for module, layer in (
        (script, "fc"),
        (torch.jit.trace(plain, torch.randn(1, 3, 2, 4, 4)), "fc"),
        (torch.jit.freeze(script), "fc"),  # it has no layers any more
        (nn.Sequential(script), "0.fc"),
    ):
        with pytest.raises(teachers.TeacherError, match=rf"layer '{layer}' of \w+ is TorchScript.*load_state_dict"):
            teachers.Teacher.wrap(module, feature_layer=layer, clip_spec=spec, class_names=LABELS)
    teacher = teachers.Teacher.wrap(part, feature_layer="1.fc", clip_spec=spec, class_names=LABELS)
    x = torch.randn(2, 3, 2, 4, 4)
    torch.testing.assert_close(teacher.encode(x).logits, plain(x))


# --- a whole store ---------------------------------------------------------------------------


class Store:
    """The few methods of a clip store that extract() uses, in memory."""

    def __init__(self, path, clips, class_names=LABELS):
        self.path, self.class_names = path, list(class_names)
        self.arrays = {} if clips is None else {"clip": clips}
        self.flags = {}
        self.splits = ["test", "train"]
        self.count = 5 if clips is None else len(clips)

    def __len__(self):
        return self.count

    @property
    def names(self):
        return list(self.arrays)

    def read(self, name, index):
        return self.arrays[name][np.asarray(index)]

    def add(self, name, shape, dtype):
        array = self.arrays.setdefault(name, np.zeros((len(self), *shape), dtype))
        assert (array.shape[1:], array.dtype) == (tuple(shape), np.dtype(dtype))
        self.flags.setdefault(name, np.zeros(len(self), bool))

    def write(self, name, index, values):
        assert values.dtype == self.arrays[name].dtype
        self.arrays[name][np.asarray(index)] = values
        self.flags[name][np.asarray(index)] = True

    def done(self, name):
        return self.flags[name].copy()


@pytest.fixture
def store(tmp_path):
    return Store(tmp_path, random_clips(5))


def count_clips(teacher, stop_after=None):
    """A list that gets the size of every batch the teacher computes."""
    sizes = []

    def hook(layer, inputs):
        if len(sizes) == stop_after:
            raise KeyboardInterrupt
        sizes.append(len(inputs[0]))

    teacher.net.register_forward_pre_hook(hook)
    return sizes


def test_extract_writes_the_teacher_s_outputs(store, capsys):
    teacher = narrow()
    teacher.train()
    teacher.net.s2.eval()  # somebody froze a part
    modes = [layer.training for layer in teacher.modules()]
    teachers.extract(teacher, store, batch_size=2, progress=False)
    assert capsys.readouterr().err == ""
    assert [layer.training for layer in teacher.modules()] == modes

    with torch.no_grad():
        output = teacher.eval()(torch.from_numpy(store.arrays["clip"]))
    np.testing.assert_allclose(store.arrays["slowfast.feature"], output.feature, atol=1e-5)
    np.testing.assert_allclose(store.arrays["slowfast.logits"], output.logits, rtol=1e-5)
    assert store.done("slowfast.feature").all() and store.done("slowfast.logits").all()
    record = json.loads((store.path / "slowfast.teacher.json").read_text())
    assert len(record["fingerprint"]) == 16 and record["clip_spec"]["frames"] == 8


def test_extract_goes_on_where_it_was_killed(store, capsys):
    with pytest.raises(KeyboardInterrupt):
        killed = narrow()
        count_clips(killed, stop_after=1)
        teachers.extract(killed, store, batch_size=2)
    assert store.done("slowfast.logits").tolist() == [True, True, False, False, False]
    store.flags["slowfast.logits"][0] = False  # killed between the two arrays

    teacher = narrow()
    sizes = count_clips(teacher)
    capsys.readouterr()
    teachers.extract(teacher, store, batch_size=3)
    assert sizes == [3, 1]
    shown = capsys.readouterr().err
    assert "slowfast" in shown and "4/4" in shown and "clips/s" in shown
    teachers.extract(teacher, store)
    assert sizes == [3, 1]


def test_extract_keeps_two_teachers_apart(store):
    first = narrow(seed=0)
    teachers.extract(first, store, progress=False)
    kept = store.arrays["slowfast.feature"].copy()

    second = narrow(seed=1)
    with pytest.raises(DataError, match=r"slowfast\.teacher\.json.*fingerprint.*overwrite"):
        teachers.extract(second, store, progress=False)
    same_weights = narrow(seed=0)
    same_weights.pixels = replace(same_weights.pixels, channels="BGR")
    with pytest.raises(DataError, match="fingerprint"):
        teachers.extract(same_weights, store, progress=False)
    with pytest.raises(DataError, match=r"precision fp32.*bf16"):
        teachers.extract(first, store, precision="bf16", progress=False)
    np.testing.assert_array_equal(store.arrays["slowfast.feature"], kept)

    # A run that overwrites and is killed leaves outputs of both; none may go on from there.
    killed = narrow(seed=1)
    count_clips(killed, stop_after=1)
    with pytest.raises(KeyboardInterrupt):
        teachers.extract(killed, store, batch_size=2, overwrite=True, progress=False)
    for teacher in (first, second):
        with pytest.raises(DataError, match="interrupted"):
            teachers.extract(teacher, store, progress=False)

    sizes = count_clips(second)
    teachers.extract(second, store, batch_size=2, overwrite=True, progress=False)
    teachers.extract(second, store, progress=False)
    assert sizes == [2, 2, 1]
    with torch.no_grad():
        wanted = second(torch.from_numpy(store.arrays["clip"])).feature
    np.testing.assert_allclose(store.arrays["slowfast.feature"], wanted, atol=1e-5)


def test_overwriting_a_part_may_not_leave_another_teacher_in_the_rest(store):
    first, second = narrow(seed=0), narrow(seed=1)
    teachers.extract(first, store, progress=False)
    store.splits = ["train"]
    with pytest.raises(DataError, match=r"\['train'\].*another.*\['test'\]"):
        teachers.extract(second, store, overwrite=True, progress=False)
    teachers.extract(first, store, overwrite=True, progress=False)  # the same one may
    store.splits = ["test", "train"]
    teachers.extract(second, store, overwrite=True, progress=False)


def test_extract_refuses_outputs_of_unknown_origin(store):
    teachers.extract(narrow(), store, progress=False)
    (store.path / "slowfast.teacher.json").unlink()
    with pytest.raises(DataError, match="fingerprint None"):
        teachers.extract(narrow(), store, progress=False)


def test_a_damaged_record_is_named(store):
    for text in ("{", "[1]", "3"):
        (store.path / "slowfast.teacher.json").write_text(text)
        with pytest.raises(DataError, match=r"slowfast\.teacher\.json cannot be read.*delete it.*over"):
            teachers.extract(narrow(), store, progress=False)


def test_the_second_of_two_teachers_with_one_name_sees_the_first(store):
    """Both begin at once: while one puts its name on the arrays, the other waits."""
    refused = []

    def second():
        with pytest.raises(DataError, match="fingerprint") as error:
            teachers.extract(narrow(seed=1), store, progress=False)
        refused.append(error)

    other = threading.Thread(target=second)
    with files.lock(store.path / "store.lock"):
        other.start()
        other.join(0.5)
        assert other.is_alive() and not (store.path / "slowfast.teacher.json").exists()
        (store.path / "slowfast.teacher.json").write_text('{"fingerprint": "of the first"}')
    other.join(60)
    assert len(refused) == 1 and not store.flags


def test_a_run_that_is_overwritten_by_another_teacher_spoils_none_of_its_outputs(store):
    first, second = narrow(seed=0), narrow(seed=1)
    sizes = []

    def overtaken(*_):
        sizes.append(1)
        if len(sizes) == 2:  # while the first teacher looks at its second batch
            teachers.extract(second, store, overwrite=True, progress=False)

    first.net.register_forward_pre_hook(overtaken)
    with pytest.raises(DataError, match=r"slowfast\.teacher\.json: another run is overwriting"):
        teachers.extract(first, store, batch_size=2, progress=False)
    with torch.no_grad():
        wanted = second(torch.from_numpy(store.arrays["clip"])).feature
    np.testing.assert_allclose(store.arrays["slowfast.feature"], wanted, atol=1e-5)


@pytest.fixture(scope="module")
def folder(tmp_path_factory):
    """A clip store on disk with twelve clips of two recordings, and nothing else."""
    path = tmp_path_factory.mktemp("folder")
    segments = []
    for k in range(2):
        video = write_video(path / f"{k}.mp4", np.arange(400) / 25)
        segments += [data.Segment(f"{k} {i}", video, 2.5 * i, 2.5 * i + 2, LABELS[i % 3]) for i in range(6)]
    options = {"num_frames": (), "ends": False, "imu": False, "clip_frames": 8, "clip_size": 32, "class_names": LABELS}
    return data.prepare(segments, path / "s", **options, workers=1, progress=False).path


def outputs(path):
    """Outputs of a store on disk: which rows of features and logits are marked, and their content."""
    store = data.ClipStore(path)
    found = {}
    for name in ("slowfast.feature", "slowfast.logits"):
        if name in store.names:
            found[name] = store.done(name), np.load(path / f"{name}.npy")
    return found


# Each moment is one of a run that goes on where the one before was killed: a file that gets its name, or a row that is
# written to an array, by half of its numbers.
MOMENTS = {
    "its name is not on the arrays yet": ("os.rename", "slowfast.teacher.json", 1),
    "no features yet": ("os.rename", "slowfast.feature.npy", 1),
    "features whose marks are not there": ("os.rename", "slowfast.feature.done.npy", 1),
    "arrays that the header does not know": ("os.rename", "store.json", 1),
    "features and no logits": ("os.rename", "slowfast.logits.npy", 1),
    "half of a row of features": ("write", "slowfast.feature", 1),
    "features without mark": ("write", "slowfast.feature.done", 1),
    "half of a row of logits": ("write", "slowfast.logits", 2),
    "logits without mark": ("write", "slowfast.logits.done", 2),
    "Ctrl-C": ("write", "slowfast.feature", 2),
}


class Dying:
    """Stands in for a mapped array, of which the nth write is the process's last act, and not a whole one."""

    def __init__(self, array, die):
        self.array, self.die = array, die

    def __getattr__(self, name):
        return getattr(self.array, name)

    def __setitem__(self, rows, values):
        if self.array.ndim > 1:
            self.array[rows, : self.array.shape[1] // 2] = values[:, : self.array.shape[1] // 2]
        self.die()
        self.array[rows] = values


def killed_again_and_again(path):
    """extract() in a process of its own, killed at each of MOMENTS; prints how it ended, keeps what it left."""
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Ignored in the background of a shell.
    teacher = narrow()
    for k, (moment, (event, where, nth)) in enumerate(MOMENTS.items()):
        child = os.fork()  # Before any computing, so that there are no threads to lose.
        if child == 0:
            seen, kind, mapped = [], signal.SIGINT if moment == "Ctrl-C" else signal.SIGKILL, StoreFiles.array

            def die(seen=seen, nth=nth, kind=kind):
                seen.append(1)
                if len(seen) == nth:
                    os.kill(os.getpid(), kind)

            def hook(name, arguments, event=event, where=where, die=die):
                if name == event and str(arguments[1]).endswith(f"/{where}"):
                    die()

            def mapped_to_die(self, name, mode="r", where=where, die=die, mapped=mapped):
                array = mapped(self, name, mode)
                return Dying(array, die) if (name, mode) == (where, "r+") else array

            if event == "write":
                StoreFiles.array = mapped_to_die
            else:
                sys.addaudithook(hook)
            try:
                teachers.extract(teacher, data.ClipStore(path), batch_size=2, progress=False)
            except KeyboardInterrupt:
                os._exit(130)
            os._exit(0)
        _, status = os.waitpid(child, 0)
        print(os.waitstatus_to_exitcode(status), flush=True)
        shutil.copytree(path, f"{path}-{k}")


def script(*command):
    """A function of this file in a process of its own."""
    root = Path(data.__file__).parent
    code = "import sys, test_teachers as T; getattr(T, sys.argv[1])(*sys.argv[2:])"
    paths = os.pathsep.join([str(root), str(root / "tests")])
    return subprocess.Popen(
        [sys.executable, "-c", code, *map(str, command)],
        env=os.environ | {"PYTHONPATH": paths},
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork and SIGKILL")
def test_extract_killed_anywhere_leaves_no_row_that_is_taken_for_whole(folder, tmp_path):
    torch.set_num_threads(1)  # As in the processes below: the same sums in the same order.
    whole, path = (shutil.copytree(folder, tmp_path / name) for name in ("whole", "killed"))
    teachers.extract(narrow(), data.ClipStore(whole), batch_size=2, progress=False)
    wanted = outputs(whole)
    said, errors = (process := script("killed_again_and_again", path)).communicate(timeout=120)
    assert process.returncode == 0 and said.split() == ["-9"] * 9 + ["130"], said + errors
    finished = []
    for k in range(len(MOMENTS)):
        found = outputs(Path(f"{path}-{k}"))
        finished.append({name: int(done.sum()) for name, (done, _) in found.items()})
        for name, (done, values) in found.items():
            np.testing.assert_array_equal(values[done], wanted[name][1][done], err_msg=list(MOMENTS)[k])
    assert finished[3] == {} and finished[5] == {"slowfast.feature": 0, "slowfast.logits": 0}
    assert finished[-1]["slowfast.feature"] < 12 and not outputs(path)["slowfast.logits"][0].all()
    teachers.extract(narrow(), data.ClipStore(path), batch_size=2, progress=False)
    for name, (done, values) in outputs(path).items():
        assert done.all()
        np.testing.assert_array_equal(values, wanted[name][1])
    names = {file.name for file in Path(path).iterdir()}
    # A record that has not got its name lies there, hidden; it is in nobody's way.
    assert {name for name in names if not name.startswith(".")} == {file.name for file in whole.iterdir()}


def shared_among_processes(path):
    """Rank 1 of 2, killed at its third clip; then ranks 0 and 1, and a process that does all, at a time."""
    torch.set_num_threads(1)
    teacher = narrow()

    def begin(rank, world_size, die_at=0):
        child, seen = os.fork(), []
        if child == 0:

            def look(*_):
                seen.append(1)
                if len(seen) == die_at:
                    os.kill(os.getpid(), signal.SIGKILL)

            teacher.net.register_forward_hook(look)
            share = {"rank": rank, "world_size": world_size}
            teachers.extract(teacher, data.ClipStore(path), batch_size=1, progress=False, **share)
            os._exit(0)
        return child

    for at_a_time in ([(1, 2, 3)], [(0, 2), (1, 2), (0, 1)]):
        for child in [begin(*share) for share in at_a_time]:
            print(os.waitstatus_to_exitcode(os.waitpid(child, 0)[1]), flush=True)
        shutil.copytree(path, f"{path}-{len(at_a_time)}")


@pytest.mark.skipif(not hasattr(os, "fork"), reason="needs os.fork and SIGKILL")
def test_processes_extract_into_one_store_and_a_dead_ones_share_is_taken_up(folder, tmp_path):
    """Three writers at a time, also of the same rows, give the same bits as one."""
    torch.set_num_threads(1)  # As above.
    whole, path = (shutil.copytree(folder, tmp_path / name) for name in ("whole", "shared"))
    teachers.extract(narrow(), data.ClipStore(whole), batch_size=1, progress=False)
    said, errors = (process := script("shared_among_processes", path)).communicate(timeout=120)
    assert process.returncode == 0 and said.split() == ["-9", "0", "0", "0"], said + errors
    assert np.flatnonzero(outputs(Path(f"{path}-1"))["slowfast.logits"][0]).tolist() == [1, 3]
    for name, (done, values) in outputs(path).items():
        assert done.all()
        np.testing.assert_array_equal(values, outputs(whole)[name][1])


def test_extract_on_a_full_disk_says_so_and_goes_on(folder, tmp_path, full_disk):
    path = shutil.copytree(folder, tmp_path / "s")
    for size, file in ((10, r"slowfast\.teacher\.json"), (2000, r"slowfast\.feature\.npy")):
        before = {file.name: file.read_bytes() for file in path.iterdir() if file.name != "store.lock"}
        with (
            full_disk(size),
            pytest.raises(ValueError, match=rf"s/{file}:? cannot be written.*the same call (goes on|continues)"),
        ):
            teachers.extract(narrow(), data.ClipStore(path), progress=False)
        left = {file.name: file.read_bytes() for file in path.iterdir()}
        assert before.items() <= left.items()
        assert not [name for name in left if ".part" in name] and outputs(path) == {}
    teachers.extract(narrow(), data.ClipStore(path), progress=False)
    assert all(done.all() for done, _ in outputs(path).values())


def test_extract_in_bf16_is_close(store):
    teacher = narrow()
    teachers.extract(teacher, store, precision="bf16", progress=False)
    with torch.no_grad():
        wanted = teacher(torch.from_numpy(store.arrays["clip"])).feature
    found = torch.from_numpy(store.arrays["slowfast.feature"])
    assert not torch.equal(found, wanted)  # it was used
    assert nn.functional.cosine_similarity(found, wanted).min() > 0.999
    with pytest.raises(EgoDistillError, match="fp16"):
        teachers.extract(teacher, store, precision="fp16")


def test_extract_averages_three_views(tmp_path):
    """Left, middle and right of a wide clip: features are averaged, and probabilities."""
    teacher = narrow()
    clips = torch.from_numpy(random_clips(3, size=37))
    store = Store(tmp_path, clips.numpy())
    teachers.extract(teacher, store, views=3, batch_size=2, progress=False)
    with torch.no_grad():
        seen = [teacher(clips[..., 3:35, left : left + 32].contiguous()) for left in (0, 3, 5)]
    feature = torch.stack([one.feature for one in seen]).mean(0)
    probability = torch.stack([one.logits.softmax(1) for one in seen]).mean(0)
    np.testing.assert_allclose(store.arrays["slowfast.feature"], feature, atol=1e-5)
    found = torch.from_numpy(store.arrays["slowfast.logits"]).softmax(1)
    np.testing.assert_allclose(found, probability, atol=1e-5)
    with pytest.raises(DataError, match=r"views 3, this run has 1"):
        teachers.extract(teacher, store, progress=False)
    with pytest.raises(teachers.TeacherError, match=r"too few for 3 views of 32; .*clip_size=37"):
        teachers.extract(teacher, Store(tmp_path, random_clips(2)), views=3)
    with pytest.raises(teachers.TeacherError, match="views is 2"):
        teachers.extract(teacher, store, views=2)


@pytest.mark.parametrize(
    ("stored", "words"),
    [
        ({"seconds": 80 / 30}, r"seconds is 2\.6666\d* in the store, 2\.1333\d* in the model.*with seconds=2\.6666"),
        (
            {"frames": 4, "sampling": "first"},
            "frames is 4 in the store, 8 in the model; sampling is first in the",
        ),
        ({"crop": False}, "crop is False in the store, True in the model"),
        ({"exact": False}, "exact is False in the store, True"),
    ],
)
def test_extract_refuses_other_clips_than_the_teacher_s(store, stored, words):
    store.specs = {"clip": replace(ClipSpec(frames=8, size=64, crop=True), **stored)}
    with pytest.raises(EgoDistillError, match=f"'clip' of the store does not fit .*{words}.*or prepare other clips"):
        teachers.extract(narrow(), store, progress=False)
    assert "slowfast.feature" not in store.names


def test_extract_resizes_larger_clips(store):
    store.specs = {"clip": ClipSpec(frames=8, size=64, crop=True)}
    store.arrays["clip"] = random_clips(5, size=64)
    teachers.extract(narrow(), store, progress=False)
    with torch.no_grad():
        wanted = narrow()(torch.from_numpy(store.arrays["clip"])).feature
    np.testing.assert_allclose(store.arrays["slowfast.feature"], wanted, atol=1e-5)


def test_extract_shares_the_clips_by_rank(store, monkeypatch):
    """Each process takes its share if it asks for one; a dead one's is taken up. RANK alone is no request."""
    teacher = narrow()
    teachers.extract(teacher, store, batch_size=1, rank=1, world_size=3, progress=False)
    assert np.flatnonzero(store.done("slowfast.feature")).tolist() == [1, 4]
    teachers.extract(teacher, store, batch_size=1, rank=0, world_size=3, progress=False)
    assert np.flatnonzero(store.done("slowfast.logits")).tolist() == [0, 1, 3, 4]
    with pytest.raises(teachers.TeacherError, match="in a single process only, but world_size is 3"):
        teachers.extract(teacher, store, rank=0, world_size=3, overwrite=True)
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    sizes = count_clips(teacher)
    teachers.extract(teacher, store, progress=False)
    assert sizes == [1] and store.done("slowfast.feature").all()
    with pytest.raises(DataError, match="rank 3 is not one of the 3"):
        teachers.extract(teacher, store, rank=3, world_size=3)


@pytest.mark.parametrize(("fold", "batches"), [(None, [[0, 1], [2, 3], [4]]), ([0, 1, 0, 0, 1], [[0, 2], [1, 4], [3]])])
def test_processes_extract_the_batches_of_one(folder, tmp_path, monkeypatch, fold, batches):
    """So outputs are equal to the bit."""
    read, read_clips = [], teachers.read_clips
    monkeypatch.setattr(
        teachers, "read_clips", lambda store, rows: read.append(rows.tolist()) or read_clips(store, rows)
    )
    given = narrow() if fold is None else [narrow(), narrow()]
    for processes in (1, 2, 3):
        store = data.ClipStore(shutil.copytree(folder, tmp_path / str(processes))).select(range(5))
        for rank in range(processes):
            share = {"rank": rank, "world_size": processes}
            teachers.extract(given, store, fold=fold, batch_size=2, progress=False, **share)
        assert sorted(read) == batches
        del read[:]


def test_each_clip_is_written_by_the_teacher_that_has_not_seen_it(folder, tmp_path):
    store = data.ClipStore(shutil.copytree(folder, tmp_path / "s"))
    fold, every = data.folds(store, 2, by="video"), [narrow(seed) for seed in range(2)]
    seen = [count_clips(one) for one in every]
    teachers.extract(every, store, fold=fold, batch_size=3, progress=False)
    assert [sum(sizes) for sizes in seen] == np.bincount(fold).tolist()
    clip = torch.from_numpy(store.read("clip", np.arange(len(store))))
    with torch.no_grad():
        wanted = torch.stack([one.eval()(clip).feature for one in every])[fold, np.arange(len(store))]
    rows = slice(None)
    np.testing.assert_allclose(store.read("slowfast.feature", rows), wanted, atol=1e-5)
    assert store.read("slowfast.fold", rows).tolist() == fold.tolist()
    record = outputs_record(store, "slowfast")
    assert len(set(record["fingerprint"])) == 2

    for sizes in seen:
        sizes.clear()
    teachers.extract(every, store, fold=fold, progress=False)  # nothing is left to do
    assert seen == [[], []]
    with pytest.raises(DataError, match="other folds for"):
        teachers.extract(every, store, fold=1 - fold, progress=False)
    with pytest.raises(DataError, match="have the fingerprint"):
        teachers.extract(every[::-1], store, fold=fold, progress=False)
    with pytest.raises(DataError, match="have the fingerprint"):
        teachers.extract(every[0], store, progress=False)
    teachers.extract(every, store, fold=1 - fold, overwrite=True, progress=False)
    assert store.read("slowfast.fold", rows).tolist() == (1 - fold).tolist()


def test_extract_says_which_folds_do_not_fit(store):
    one, other = narrow(), narrow(1)
    for given, fold, words in (
        (one, [0] * 5, "fold needs several teachers"),
        ([one], [0] * 5, "at least two of them.*got 1 and a fold"),
        ([one, other], None, "got 2 and no fold"),
        ([one, other], [0, 1, 2, 0, 1], "from 0 to 1 for each of the 5 clips"),
        ([one, other], [0, 1], "from 0 to 1 for each of the 5 clips"),
        ([one, other], [0.0, 1.0, 0.0, 1.0, 0.0], "got float64"),
        ([one, narrow(1, "another")], [0, 1, 0, 1, 0], "must have the same name.*another"),
    ):
        with pytest.raises(teachers.TeacherError, match=words):
            teachers.extract(given, store, fold=fold, progress=False)
    assert "slowfast.feature" not in store.names


@pytest.mark.parametrize("given", [nn.Linear(1, 1), nn.Sequential(nn.Linear(1, 1)), "teacher.pt", [nn.Linear(1, 1)]])
def test_extract_says_what_a_teacher_is(store, given):
    with pytest.raises(teachers.TeacherError, match=r"runs a Teacher, not a (Linear|Sequential|str); .*Teacher.wrap"):
        teachers.extract(given, store, progress=False)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"frames": "eight"}, "x3d_m: the option frames='eight' must be a whole number"),
        ({"frames": 8.5}, "frames=8.5 must be a whole number"),
        ({"seconds": "two"}, "seconds='two' must be a number"),
        ({"width": -3}, "X3D: .*width=-3"),
        ({"mean": 5}, "x3d_m: .*'mean': 5"),
    ],
)
def test_options_of_the_wrong_kind_are_named(options, words):
    with pytest.raises(teachers.TeacherError, match="depths=5"):
        teachers.load("slowfast_8x8_r50", num_classes=3, progress=False, depths=5)
    with pytest.raises(teachers.TeacherError, match=words):
        teachers.load("x3d_m", num_classes=3, progress=False, **options)


def test_extract_reads_ahead(store):
    """The next batch is read while the teacher looks at this one."""
    teacher, asked, seen = narrow(), [], []
    read = store.read
    store.read = lambda name, index: (asked.append(list(index)), read(name, index))[1]

    def look(*_):
        time.sleep(0.05)
        seen.append(len(asked))

    teacher.net.register_forward_hook(look)
    teachers.extract(teacher, store, batch_size=2, progress=False)
    assert asked[1:] == [[0, 1], [2, 3], [4]]  # the first is the check that the clips fit
    assert seen == [3, 4, 4]


def test_frozen_trunk_leaves_the_classifier():
    teacher = narrow().freeze_trunk()
    trained = [name for name, value in teacher.named_parameters() if value.requires_grad]
    assert trained == ["net.head.projection.weight", "net.head.projection.bias"]


def test_a_frozen_trunk_keeps_its_statistics():
    """In anybody's loop, not in ours alone."""
    teacher = narrow().train().freeze_trunk()
    before = {name: value.clone() for name, value in teacher.state_dict().items()}
    for mode in (True, False, True):
        assert teacher.train(mode).training == mode
        teacher(*batches.example_inputs(teacher, 2))
    assert all(torch.equal(value, before[name]) for name, value in teacher.state_dict().items())
    teacher.requires_grad_(True).train()(*batches.example_inputs(teacher, 2))
    assert not torch.equal(
        teacher.state_dict()["net.s1.pathway0_stem.bn.running_mean"], before["net.s1.pathway0_stem.bn.running_mean"]
    )


@pytest.mark.parametrize("name", list(SMALL))
def test_a_network_tells_of_parameters_without_gradient(name):
    """Several processes that train it have to know."""
    teacher = small(name).train()
    sum(value.sum() for value in teacher(*batches.example_inputs(teacher, 2))).backward()
    assert teacher.find_unused == any(parameter.grad is None for parameter in teacher.parameters())


def test_extract_refuses_stores_that_do_not_fit(tmp_path):
    teacher = narrow()
    with pytest.raises(EgoDistillError, match=r"class 1: \['put'\] and \['pour'\]"):
        teachers.extract(teacher, Store(tmp_path, random_clips(2), ["take", "pour", "wash"]))
    with pytest.raises(EgoDistillError, match=r"4.*class 3: \[\] and \['cut'\]"):
        teachers.extract(teacher, Store(tmp_path, random_clips(2), [*LABELS, "cut"]))
    with pytest.raises(EgoDistillError, match=r"clip_frames=8, clip_size=32"):
        teachers.extract(teacher, Store(tmp_path, None))
    with pytest.raises(EgoDistillError, match=r"frames is 16 in the store, 8 in the model"):
        teachers.extract(teacher, Store(tmp_path, random_clips(2, frames=16)))
    assert list(tmp_path.iterdir()) == []  # refused before anything was written


def test_extract_refuses_outputs_that_are_not_finite(store):
    teacher = narrow()
    with torch.no_grad():
        teacher.net.head.projection.bias[0] = math.nan
    with pytest.raises(teachers.TeacherError, match=r"slowfast\.logits.*not finite"):
        teachers.extract(teacher, store, progress=False)
    assert not store.done("slowfast.logits").any()


def test_extract_takes_an_empty_store_and_a_wrapped_model(tmp_path):
    teachers.extract(narrow(), Store(tmp_path, random_clips(0)), progress=False)
    layer = nn.Linear(3, 3)
    teacher = teachers.Teacher.wrap(
        Positions(layer),
        feature_layer="layer",
        clip_spec=ClipSpec(frames=8, size=32),
        class_names=LABELS,
    )
    store = Store(tmp_path, random_clips(2))
    teachers.extract(teacher, store, progress=False)
    assert store.done("positions.feature").all()


def test_public_names():
    assert all(hasattr(teachers, name) for name in teachers.__all__)


# --- options that arrive ---------------------------------------------------------------------


def test_wrapped_models_see_the_pixels_that_they_are_said_to_see():
    torch.manual_seed(0)
    net = nn.Sequential(nn.Conv3d(3, 5, 4, stride=4), nn.AdaptiveAvgPool3d(1), nn.Flatten(), nn.Linear(5, 3))
    pixels = teachers.Pixels(mean=(0.1, 0.2, 0.3), std=(0.4, 0.5, 0.6), channels="BGR")
    spec = ClipSpec(frames=4, size=8, seconds=1.5, sampling="first")
    teacher = teachers.Teacher.wrap(net, feature_layer="3", clip_spec=spec, pixels=pixels, name="own").eval()
    assert teacher.pixels == pixels and teacher.clip_spec == replace(spec, crop=True) and teacher.name == "own"
    clip = random_clips(2, frames=4, size=8)
    by_hand = (clip[:, :, ::-1] / 255 - np.array(pixels.mean)[:, None, None]) / np.array(pixels.std)[:, None, None]
    with torch.no_grad():
        expected = net(torch.tensor(by_hand.transpose(0, 2, 1, 3, 4), dtype=torch.float32))
        torch.testing.assert_close(teacher(torch.from_numpy(clip)).logits, expected, rtol=1e-4, atol=1e-5)


def test_a_fingerprint_covers_everything_that_changes_the_outputs():
    base = narrow()
    others = [
        narrow(seed=1),
        narrow(mean=(0.1, 0.2, 0.3)),
        narrow(std=(0.1, 0.2, 0.3)),
        narrow(channels="BGR"),
        narrow(seconds=1.5),
        narrow(sampling="first"),
        narrow(crop=False),
        narrow(alpha=8),
    ]
    prints = {teachers.fingerprint(one) for one in (base, *others)}
    assert len(prints) == 9 and teachers.fingerprint(narrow(name="other")) == teachers.fingerprint(base)


@pytest.mark.parametrize(("precision", "dtype"), [("fp32", torch.float32), ("bf16", torch.bfloat16)])
def test_precision_and_views_reach_the_outputs_and_their_record(tmp_path, precision, dtype):
    teacher, seen = narrow(), []
    teacher.classifier.register_forward_hook(lambda layer, inputs, output: seen.append((output.dtype, len(output))))
    store = Store(tmp_path, random_clips(3, size=40))
    teachers.extract(teacher, store, views=3, batch_size=2, precision=precision, device="cpu", progress=False)
    assert seen == 3 * [(dtype, 2)] + 3 * [(dtype, 1)]
    record = json.loads((store.path / "slowfast.teacher.json").read_text())
    assert (record["precision"], record["views"]) == (precision, 3)
    assert record["fingerprint"] == teachers.fingerprint(teacher)


# --- One pass: decode and extract together

ONE_PASS = {"frame_size": 24, "progress": False, "workers": 2}


@pytest.fixture(scope="module")
def two_passes(kitchen, tmp_path_factory):
    """Frames of the teacher in the store, then its outputs; the clips of a broken recording are missing."""
    folder = tmp_path_factory.mktemp("two")
    segments = [replace(segment, label=LABELS[k % 3]) for k, segment in enumerate(kitchen)]
    broken = break_packets(segments[3].video, folder / "broken.MP4", set(range(20, 60)))
    segments[3:6] = [replace(segment, video=broken) for segment in segments[3:6]]
    options = ONE_PASS | {"class_names": LABELS, "max_bad": 0.9}
    with pytest.warns(UserWarning, match="could not be prepared"):
        store = data.prepare(segments, folder / "s", clip_frames=8, clip_size=32, **options)
    teachers.extract(narrow(), store, batch_size=4, progress=False)
    return segments, options, store


def equal_stores(one, two):
    assert set(two.names) == set(one.names) | {"clip"}
    assert [clip["id"] for clip in one.clips] == [clip["id"] for clip in two.clips]
    for name in one.names:
        np.testing.assert_array_equal(one.read(name, slice(None)), two.read(name, slice(None)), err_msg=name)
    assert not (one.path / "pending").exists() and not (one.path / "clip.npy").exists()


@pytest.mark.filterwarnings("ignore:.*could not be prepared")
def test_one_pass_gives_the_outputs_of_two(two_passes, tmp_path):
    segments, options, wanted = two_passes
    assert 0 < len(wanted) < 12 and len(wanted) % 4
    teacher = narrow()
    store = data.prepare(segments, tmp_path / "s", consumer=teachers.Extraction(teacher, batch_size=4), **options)
    equal_stores(store, wanted)
    records = [json.loads((one.path / "slowfast.teacher.json").read_text()) for one in (store, wanted)]
    assert records[0] == records[1]
    sizes = count_clips(teacher)
    data.prepare(segments, tmp_path / "s", consumer=teachers.Extraction(teacher, batch_size=4), **options)
    assert sizes == []  # finished
    with pytest.raises(DataError, match=r"consumer\.fingerprint was .* and is now"):
        data.prepare(segments, tmp_path / "s", consumer=teachers.Extraction(narrow(seed=1)), **options)
    with pytest.raises(DataError, match=r"consumer\.teacher was 'slowfast' and is now None"):
        data.prepare(segments, tmp_path / "s", **options)


@pytest.mark.filterwarnings("ignore:.*could not be prepared")
@pytest.mark.parametrize("stop", [1, 2])
def test_one_pass_continues_where_it_was_stopped(two_passes, tmp_path, stop):
    segments, options, wanted = two_passes
    killed = narrow()
    count_clips(killed, stop_after=stop)
    with pytest.raises(KeyboardInterrupt):
        data.prepare(segments, tmp_path / "s", consumer=teachers.Extraction(killed, batch_size=4), **options)
    waiting = sorted((tmp_path / "s" / "pending").iterdir())
    assert waiting
    waiting[0].unlink()  # lost: it is decoded again
    (tmp_path / "s" / "pending" / "0.npy").touch()  # of a row that the teacher has seen
    teacher = narrow()
    sizes = count_clips(teacher)
    store = data.prepare(segments, tmp_path / "s", consumer=teachers.Extraction(teacher, batch_size=4), **options)
    assert sum(sizes) == len(wanted) - 4 * stop
    equal_stores(store, wanted)


@pytest.mark.filterwarnings("ignore:.*could not be prepared")
def test_decoding_waits_for_a_slow_teacher(two_passes, tmp_path, monkeypatch):
    """Only a few frames are on the disk at any time; the recording that the teacher needs first does not wait."""
    segments, options, wanted = two_passes
    most, put = [0], Pending.put
    init = Pending.__init__

    def small_room(self, store):
        init(self, store)
        self.room = 2

    monkeypatch.setattr(Pending, "__init__", small_room)

    def counted(self, row, frames, together):
        put(self, row, frames, together)
        most[0] = max(most[0], len(self.rows()))

    monkeypatch.setattr(Pending, "put", counted)

    def fill(self, bundle):  # in a thread of this process, so that the changes above act on all of them
        for rows in bundle:
            data.fill(self.store, rows)
        return 0

    monkeypatch.setattr(data._Filling, "_run_process", fill)
    store = data.prepare(segments, tmp_path / "s", consumer=teachers.Extraction(narrow(), batch_size=4), **options)
    equal_stores(store, wanted)
    assert 0 < most[0] <= 4 + 2 + 1  # a batch of four, and what two processes may add before they look


def test_one_pass_refuses_what_does_not_fit(two_passes, tmp_path):
    segments, options, _ = two_passes
    consumer = teachers.Extraction(narrow())
    with pytest.raises(DataError, match="leave out clip_frames, rank and world_size"):
        data.prepare(segments, tmp_path / "s", consumer=consumer, clip_frames=8, **options)
    with pytest.raises(DataError, match="leave out clip_frames, rank and world_size"):
        data.prepare(segments, tmp_path / "s", consumer=consumer, world_size=2, **options)
    with pytest.raises(teachers.TeacherError, match=r"the store has the classes .* prepare with class_names="):
        data.prepare(segments, tmp_path / "s", consumer=consumer, **options | {"class_names": [*LABELS, "more"]})
    with pytest.raises(teachers.TeacherError, match="views is 2"):
        teachers.Extraction(narrow(), views=2)


def test_a_store_without_labels_gets_the_classes_of_its_teacher(kitchen, tmp_path):
    segments = [replace(segment, label=None) for segment in kitchen[:2]]
    for _ in range(2):  # and the same call continues it
        store = data.prepare(segments, tmp_path / "one", consumer=teachers.Extraction(narrow()), **ONE_PASS)
        assert store.class_names == LABELS and set(store.labels) == {-1}
    two = data.prepare(segments, tmp_path / "two", clip_frames=8, clip_size=32, **ONE_PASS)
    assert two.class_names == []
    teachers.extract(narrow(), two.select([0]), progress=False)
    assert two.class_names == data.ClipStore(two.path).class_names == LABELS
    teachers.extract(narrow(), two, progress=False)
    other = narrow(name="other", class_names=["a", "b", "c"])
    with pytest.raises(EgoDistillError, match=r"class names of model \(3\) and store \(3\) differ first at class 0"):
        teachers.extract(other, two, progress=False)


@pytest.mark.filterwarnings("ignore:.*could not be prepared")
def test_one_pass_runs_the_teacher_in_evaluation_mode_and_leaves_its_mode(two_passes, tmp_path):
    segments, options, wanted = two_passes
    teacher = narrow().train()
    store = data.prepare(segments, tmp_path / "s", consumer=teachers.Extraction(teacher, batch_size=4), **options)
    equal_stores(store, wanted)
    assert teacher.training and teacher.net.training


def test_one_pass_of_three_views_gives_the_outputs_and_the_record_of_two(kitchen, tmp_path):
    segments = [replace(segment, label=LABELS[k % 3]) for k, segment in enumerate(kitchen[:2])]
    options = ONE_PASS | {"class_names": LABELS}
    wanted = data.prepare(segments, tmp_path / "two", clip_frames=8, clip_size=37, **options)
    teachers.extract(narrow(), wanted, views=3, batch_size=4, progress=False)
    consumer = teachers.Extraction(narrow(), views=3, batch_size=4)
    store = data.prepare(segments, tmp_path / "one", consumer=consumer, **options)
    equal_stores(store, wanted)
    assert outputs_record(store, "slowfast") == outputs_record(wanted, "slowfast")
    assert outputs_record(store, "slowfast")["views"] == 3 == consumer.record["views"]


def test_one_pass_stops_if_another_run_claims_its_outputs(tmp_path):
    segments = data.SegmentList([data.Segment(str(k), "a.mp4", 0.0, 1.0, LABELS[0]) for k in range(4)])
    clips, arrays = [(k, 0.0) for k in range(4)], {"x": ("float32", (1,))}
    writer = StoreWriter.begin(tmp_path / "s", segments, lambda: clips, {}, LABELS, arrays=arrays)
    for row in writer.missing():
        writer.write(row, {"x": [row]})
    store, frames = data.ClipStore(tmp_path / "s"), np.zeros((2, 8, 3, 32, 32), np.uint8)
    with teachers.Extraction(narrow()).open(store) as write:
        write(np.array([0, 1]), {"clip": frames})
        record = outputs_record(store, "slowfast")
        files.write_json(store.path / "slowfast.teacher.json", record | {"fingerprint": "another"})
        with pytest.raises(DataError, match="another run is overwriting these outputs"):
            write(np.array([2, 3]), {"clip": frames})
    assert store.done("slowfast.logits").tolist() == [True, True, False, False]


@pytest.mark.parametrize("precision", ["fp32", "bf16"])
def test_one_pass_runs_in_the_precision_asked_for(tmp_path, precision):
    segments = data.SegmentList([data.Segment(str(k), "a.mp4", 0.0, 1.0, LABELS[0]) for k in range(2)])
    clips, arrays = [(k, 0.0) for k in range(2)], {"x": ("float32", (1,))}
    writer = StoreWriter.begin(tmp_path / "s", segments, lambda: clips, {}, LABELS, arrays=arrays)
    for row in writer.missing():
        writer.write(row, {"x": [row]})
    store, teacher = data.ClipStore(tmp_path / "s"), narrow()
    frames = np.random.default_rng(0).integers(0, 256, (2, 8, 3, 32, 32), np.uint8)
    consumer = teachers.Extraction(teacher, precision=precision, device="cpu")
    with consumer.open(store) as write:
        write(np.arange(2), {"clip": frames})
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16, enabled=precision == "bf16"):
        wanted = teacher(torch.from_numpy(frames))
    np.testing.assert_array_equal(store.read("slowfast.logits", [0, 1]), wanted.logits.float().numpy())
    assert wanted.logits.dtype == (torch.bfloat16 if precision == "bf16" else torch.float32)
    assert outputs_record(store, "slowfast")["precision"] == consumer.record["precision"] == precision


def test_one_pass_refuses_clips_of_another_length(two_passes, tmp_path):
    """As extract() does: frames over another time than the clip's would be those of another clip."""
    segments, options, _ = two_passes
    consumer = teachers.Extraction(narrow(seconds=80 / 30))
    with pytest.raises(DataError, match=r"clips of 2\.667 s, those of a store 2\.133 s.*seconds="):
        data.prepare(segments, tmp_path / "s", consumer=consumer, **options)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize(
    ("part", "name", "value"),
    [
        ("options", "dropout", math.nan),
        ("options", "pool", True),
        ("clip_spec", "size", 24.0),
        ("clip_spec", "size", 10**9),
    ],
)
def test_forged_arguments_are_refused_when_a_teacher_is_loaded(tmp_path, part, name, value):
    path = tmp_path / "t.pt"
    small("x3d_m").save(path)
    content = torch.load(path, weights_only=True)
    content["arguments"][part][name] = value
    torch.save(content, path)
    with pytest.raises(EgoDistillError, match=r"t\.pt"):
        teachers.Teacher.load(path)


def image_student(seed=0):
    options = {"image_encoder": "resnet10x8", "image_weights": None, "frame_size": 24, "hidden": 16}
    options |= {"feature_dim": narrow().feature_dim, "class_names": LABELS}
    torch.manual_seed(seed)
    return EgoDistill(3, **options)


def test_two_consumers_that_read_the_same_frames_are_refused():
    """Each would get the clips of the other's size, and one record would take the place of the other."""
    with pytest.raises(DataError, match=r"two of the consumers have the same specs \(clip\); run one after the other"):
        Together(teachers.Extraction(narrow()), teachers.Extraction(narrow(seed=1)))


@pytest.mark.filterwarnings("ignore:.*could not be prepared")
def test_end_features_serve_stage_1_as_the_end_frames_do(two_passes, tmp_path):
    """Also if the image encoder is stopped, when the teacher has seen the batch already."""
    segments, options, wanted = two_passes
    stopped, student = image_student(), image_student().train()
    seen = count_clips(argparse.Namespace(net=stopped.image_encoder), stop_after=1)

    def together(model):
        first = teachers.Extraction(narrow(), batch_size=4)
        return Together(first, distillation.EndFeatures(model, batch_size=2, precision="fp32"))

    with pytest.raises(KeyboardInterrupt):
        data.prepare(segments, tmp_path / "s", consumer=together(stopped), **options)
    store = data.prepare(segments, tmp_path / "s", consumer=together(student), **options)
    assert seen == [8] and student.training and student.image_encoder.training
    assert "ends" not in store.names and not list(store.path.glob("ends*"))
    assert store.read("end_features", [0]).shape == (1, 2, 64)
    for name in ("slowfast.feature", "slowfast.logits", "frames_1"):
        np.testing.assert_array_equal(store.read(name, slice(None)), wanted.read(name, slice(None)))
    frames = torch.from_numpy(wanted.read("ends", slice(0, 4)))
    with torch.no_grad():
        features = image_student().eval().encode_frames(frames, 2)
    np.testing.assert_array_equal(store.read("end_features", slice(0, 4)), features.numpy())
    runs = []
    for one in (store, wanted):
        model = image_student()
        settings = {"epochs": 2, "batch_size": 4, "progress": False, "device": "cpu", "precision": "fp32"}
        history = pretrain_imu(model, one, teacher="slowfast", **settings)
        runs.append([[row["loss"] for row in history], *model.state_dict().values()])
    for ours, theirs in zip(*runs, strict=True):
        # Features of a batch of another size differ by rounding, on a Xeon with AMX more than on others (2e-5 here).
        torch.testing.assert_close(torch.as_tensor(ours), torch.as_tensor(theirs), rtol=0, atol=1e-4)
    with pytest.raises(DataError, match=r"consumer\.end_features\.fingerprint was .* and is now"):
        data.prepare(segments, tmp_path / "s", consumer=together(image_student(1)), **options)


@pytest.mark.filterwarnings("ignore:.*could not be prepared")
def test_end_features_of_another_image_encoder_are_refused(two_passes, tmp_path):
    segments, options, _ = two_passes
    consumer = distillation.EndFeatures(image_student(), batch_size=4)
    clip = {"clip_frames": 8, "clip_size": 32}  # The two consumers do not need each other.
    store = data.prepare(segments, tmp_path / "s", consumer=consumer, **options, **clip)
    assert {"clip", "end_features"} <= set(store.names) and "ends" not in store.names
    settings = {"epochs": 1, "batch_size": 4, "l1_weight": 0, "teacher": None, "progress": False, "device": "cpu"}
    pretrain_imu(image_student(), store, **settings)
    changed = image_student()
    changed.image_encoder.bn1.running_mean += 1
    for model in (image_student(1), changed):
        with pytest.raises(EgoDistillError, match=r"s: its end_features .* fingerprint .* `prepare --end-features`"):
            pretrain_imu(model, store, **settings)


@pytest.mark.parametrize("choice", [{"frame_size": 32}, {"exact": False}, {"tolerance": 0.25}])
def test_end_features_of_other_end_frames_are_refused(two_passes, tmp_path, choice):
    segments, options, _ = two_passes
    (value,) = choice.values()
    with pytest.raises(DataError, match=rf"end frames with (size|exact|tolerance)=.* asked for {value}; build"):
        data.prepare(segments, tmp_path / "s", consumer=distillation.EndFeatures(image_student()), **options | choice)
    assert not (tmp_path / "s").exists()


@pytest.mark.parametrize("choice", [{}, {"exact": False}, {"tolerance": 0.25}])
def test_end_features_are_of_the_frames_that_the_store_would_hold(choice):
    settings = {
        "frame_size": 32,
        "exact": True,
        "tolerance": 0.0,
        "num_frames": [1],
        "sampling": ["uniform"],
        "seed": 0,
    }
    settings |= {"ends": True, "clip_frames": None, "imu": False, "audio": False} | choice
    model = EgoDistill(3, image_encoder="resnet10x8", image_weights=None, frame_size=32, hidden=16, **choice)
    assert (
        distillation.EndFeatures(model, precision="fp32").specs["ends"] == data.clip_specs(settings)["ends"].complete()
    )
