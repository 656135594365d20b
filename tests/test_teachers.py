"""Teachers: the published models number by number, the face of all teachers, checkpoints, extract()."""

import json
import math
import os
import pickle
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
from painted import write_video
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.video import MViT, r3d_18, swin3d_t
from torchvision.models.video.mvit import MSBlockConfig

import egodistill
from egodistill import data, teachers
from egodistill.store import StoreFiles

LABELS = ["take", "put", "wash"]
NARROW = {"width": 8, "beta": 4, "depths": (1, 1, 1, 1), "fusion_kernel": 5}


def narrow(seed=0, **options):
    """A teacher small enough for tests: 8 frames of 32 pixels, with settled random weights."""
    torch.manual_seed(seed)
    teacher = teachers.slowfast(3, class_names=LABELS, frames=8, size=32, **{**NARROW, **options})
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
        found = (teacher.net.positions if several else teacher.encode)(clip)._asdict()
        if "noun_logits" in official:
            found["verb_logits"] = found.pop("logits")
            found["noun_logits"] = teacher.net.head1(found["feature"])
        for array, values in found.items():
            wanted = official[array]
            if several and wanted.ndim == 2:  # one position, which the file leaves out
                wanted = wanted[:, None, None]
            assert values.shape == wanted.shape
            np.testing.assert_allclose(values, wanted, rtol=about["rtol"], atol=about["atol"])


def meta(name, num_classes=None, **options):
    with torch.device("meta"):
        return teachers.load(name, None, num_classes, progress=False, **options)


def gmacs(teacher):
    with FlopCounterMode(display=False) as counter:
        teacher(teacher.example()[0].to("meta"))
    return counter.get_total_flops() / 2e9


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
    if name.startswith("slowfast"):
        assert len(teacher.net.slow_index) == frames
        frames, rate = 32, 2
    assert (spec.frames, spec.seconds) == (frames, frames * rate / 30)
    assert (spec.channels == "BGR") == name.startswith("epic")
    assert spec.mean[0] == spec.mean[2] == (0.5 if "motionformer" in name else 0.45)
    assert len(teacher.class_names) == (97 if name.startswith("epic") else 400)
    assert teacher(teacher.example(2)[0].to("meta")).feature.shape == (2, teacher.feature_dim)
    published = teachers.MODELS[name]
    assert published.released or name == "motionformer_16x8"
    assert all(file.startswith("ek_") == name.startswith("epic") for file in published.released)


# --- MotionFormer ----------------------------------------------------------------------------

SMALL_MOTIONFORMER = {"frames": 6, "size": 32, "patch": 8, "width": 24, "depth": 2, "heads": 3}
SMALL_MVIT = {"frames": 4, "size": 32, "width": 12, "depths": (1, 2, 1), "kv_stride": 4}
SMALL_X3D = {"frames": 4, "size": 32, "width": 8, "depth_factor": 1.0, "feature_dim": 20}
SMALL_SLOWFAST = {"frames": 8, "size": 32, **NARROW}
SMALL = {
    "motionformer_16x4": SMALL_MOTIONFORMER,
    "epic_motionformer_16x4": SMALL_MOTIONFORMER,
    "mvit_b_16x4": SMALL_MVIT,
    "x3d_m": SMALL_X3D,
    "slowfast_8x8_r50": SMALL_SLOWFAST,
}


def settle(net):
    """Random values everywhere, so large that every part of a network is seen in its outputs."""
    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        for key, value in net.state_dict().items():
            if not key.endswith("num_batches_tracked"):
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


def trajectory_attention(attn, x, time):
    """Section 3.2 of the MotionFormer paper, one query and one head at a time."""
    width, heads = x.shape[1], attn.heads
    dim = width // heads
    q, k, v = attn.qkv(x).split(width, 1)
    patches = (len(x) - 1) // time
    out = torch.zeros_like(x)
    for h in range(heads):
        part = slice(h * dim, (h + 1) * dim)
        scores = k[:, part] @ q[0, part] / math.sqrt(dim)
        out[0, part] = scores.softmax(0) @ v[:, part]
    for s in range(1, len(x)):
        trajectory = torch.zeros(time, width, dtype=x.dtype)
        for t in range(time):
            frame = slice(1 + t * patches, 1 + (t + 1) * patches)
            for h in range(heads):
                part = slice(h * dim, (h + 1) * dim)
                scores = k[frame, part] @ q[s, part] / math.sqrt(dim)
                trajectory[t, part] = scores.softmax(0) @ v[frame, part]
        query = attn.proj_q(trajectory[(s - 1) // patches])
        key, value = attn.proj_kv(trajectory).split(width, 1)
        value = value if attn.projected else trajectory
        for h in range(heads):
            part = slice(h * dim, (h + 1) * dim)
            out[s, part] = (key[:, part] @ query[part] / math.sqrt(dim)).softmax(0) @ value[:, part]
    return attn.proj(out)


@pytest.mark.parametrize("many", [0, 1 << 22])  # a clip and a frame at a time, or all at once
@pytest.mark.parametrize("value_step", ["original", "projected"])
def test_both_forms_of_trajectory_attention_equal_the_paper_s(value_step, many, monkeypatch):
    monkeypatch.setattr(teachers, "_MANY", many)
    net = small("motionformer_16x4", value_step=value_step).net.double()
    attn = net.blocks[0].attn
    assert attn.fast
    torch.manual_seed(0)
    x = torch.randn(2, 1 + 3 * 5, 24, dtype=torch.float64, requires_grad=True)
    wanted = torch.stack([trajectory_attention(attn, one, 3) for one in x])
    gradients = torch.autograd.grad(wanted.square().sum(), [x, attn.proj_kv.weight])
    for attn.fast in (True, False):
        found = attn(x, 3)
        torch.testing.assert_close(found, wanted, rtol=1e-10, atol=1e-10)
        again = torch.autograd.grad(found.square().sum(), [x, attn.proj_kv.weight])
        for one, other in zip(again, gradients, strict=True):
            torch.testing.assert_close(one, other, rtol=1e-8, atol=1e-8)


def test_queries_of_several_frames_at_a_time():
    """Any number of frames of queries in one go gives the same; a GPU takes all."""
    attn = small("motionformer_16x4", value_step="projected").net.blocks[0].attn.double()
    q, k, v = torch.randn(3, 2, 3, 12, 8, dtype=torch.float64)  # [B, H, S, d]
    wanted = attn._trajectories(q, k, v, 4)
    k, v = (y.unflatten(2, (4, 3)).permute(2, 0, 1, 3, 4).flatten(0, 1) for y in (k, v))
    for step in (2, 4):
        parts = q.unflatten(2, (4, 3)).split(step, 2)
        found = [attn._along(part, k, v, i * step) for i, part in enumerate(parts)]
        torch.testing.assert_close(torch.cat(found, 1), wanted, rtol=1e-10, atol=1e-10)


def test_the_fast_form_of_a_whole_network():
    fast, released = small("motionformer_16x4"), small("motionformer_16x4", fast=False)
    clip = torch.from_numpy(random_clips(2, frames=6))
    with torch.no_grad():
        for one, other in zip(fast(clip), released(clip), strict=True):
            torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
        projected = small("motionformer_16x4", value_step="projected")
        assert (projected(clip).feature - fast(clip).feature).abs().max() > 0.1


def test_positions_of_another_crop_are_resized():
    net = small("motionformer_16x4").net
    with torch.no_grad():
        net.pos_embed[0, 1:] = torch.arange(4.0).repeat(4)[:, None]  # each patch knows its column
        net.pos_embed[0, 1:, 1] = torch.arange(4.0).repeat_interleave(4)  # and its row
    assert torch.equal(net._spatial((4, 4)), net.pos_embed[0, 1:])
    wide = net._spatial((4, 8)).unflatten(0, (4, 8))
    assert (wide[:, 1:, 0] > wide[:, :-1, 0]).all()  # columns grow to the right
    torch.testing.assert_close(wide[..., 1].mean(1), torch.arange(4.0))  # rows stay
    with torch.no_grad():
        assert net(torch.randn(1, 3, 6, 48, 40)).feature.shape == (1, 24)
    with pytest.raises(teachers.TeacherError, match=r"36 x 32.*multiples of.*8"):
        net(torch.randn(1, 3, 6, 36, 32))


def test_verbs_are_distilled_unless_nouns_are_asked_for():
    verbs, nouns = small("epic_motionformer_16x4"), small("epic_motionformer_16x4", head="noun")
    clip = torch.from_numpy(random_clips(2, frames=6))
    with torch.no_grad():
        feature, logits = verbs(clip)
        torch.testing.assert_close(logits, verbs.net.head0(feature))
        torch.testing.assert_close(nouns(clip).logits, verbs.net.head1(feature))
    assert (len(verbs.class_names), len(nouns.class_names)) == (3, 5)
    assert verbs.classifier is verbs.net.head0 and nouns.classifier is nouns.net.head1


# --- MViT and X3D ----------------------------------------------------------------------------


def test_mvit_equals_torchvision_s():
    """An implementation of other people, with a grid that is not square in time and space."""
    torch.manual_seed(0)
    stages = [
        MSBlockConfig(1, 12, 24, [], [3, 3, 3], [], [1, 4, 4]),
        MSBlockConfig(2, 24, 24, [3, 3, 3], [3, 3, 3], [1, 2, 2], [1, 2, 2]),
        MSBlockConfig(2, 24, 48, [], [3, 3, 3], [], [1, 2, 2]),
        MSBlockConfig(4, 48, 48, [3, 3, 3], [3, 3, 3], [1, 2, 2], [1, 1, 1]),
    ]
    official = settle(MViT((32, 32), 4, stages, False, False, False, False, num_classes=3)).eval()
    teacher = teachers.load("mvit_b_16x4", official.state_dict(), progress=False, **SMALL_MVIT)
    clip = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        torch.testing.assert_close(teacher.encode(clip).logits, official(clip), rtol=1e-4, atol=1e-5)
    with pytest.raises(teachers.TeacherError, match=r"\[1, 3, 4, 64, 32\].*\[B, 3, 4, 32, 32\]"):
        teacher.encode(torch.randn(1, 3, 4, 64, 32))


def test_squeeze_excitation_widths():
    """A sixteenth in multiples of 8, as the published X3D has them, and never 10 % less."""
    widths = {24: 8, 54: 8, 108: 8, 216: 16, 432: 32, 864: 56}
    for channels, wanted in widths.items():
        assert teachers._SqueezeExcitation(channels).fc1.out_channels == wanted


def test_x3d_averages_positions():
    net = small("x3d_m", pool=1).net
    clip = torch.randn(1, 3, 4, 64, 96)
    with torch.no_grad():
        places, mean = net.positions(clip), net(clip)
    assert places.logits.shape == (1, 2, 3, 3)
    assert not torch.allclose(places.feature[:, 0], places.feature[:, 1], atol=1e-3)
    for one, every in zip(mean, places, strict=True):
        torch.testing.assert_close(one, every.flatten(1, 2).mean(1))


@pytest.mark.parametrize(
    ("name", "options", "words"),
    [
        ("motionformer_16x4", {"frames": 5}, ["tubelet=2", "frames=5"]),
        ("motionformer_16x4", {"heads": 5}, ["heads=5", "width=24"]),
        ("motionformer_16x4", {"value_step": "both"}, ["value_step", "'both'", "projected"]),
        ("motionformer_16x4", {"num_classes": (1, 2, 3)}, ["(1, 2, 3)"]),
        ("mvit_b_16x4", {"size": 30}, ["size=30"]),
        ("x3d_m", {"pool": 0}, ["pool=0"]),
        ("x3d_m", {"colour": 1}, ["x3d_m", "'colour'", "depth_factor", "channels"]),
        ("x3d_m", {"class_names": ["a", "b"], "num_classes": 3}, ["2 class names", "3 classes"]),
        ("x3d_m", {"class_names": ["a"], "num_classes": 3}, ["1 class names"]),
    ],
)
def test_impossible_models_are_refused(name, options, words):
    with pytest.raises(teachers.TeacherError) as caught:
        teachers.load(name, progress=False, **{**SMALL[name], "num_classes": 3, **options})
    assert all(word in str(caught.value) for word in words)


def test_unknown_names_are_refused():
    with pytest.raises(teachers.TeacherError, match=r"'x3d'.*x3d_m"):
        teachers.load("x3d")


@pytest.mark.parametrize("name", ["motionformer_16x4", "mvit_b_16x4", "x3d_m"])
def test_the_others_learn_too(name):
    """Fresh weights fit eight clips that differ only in the order of their frames."""
    torch.set_num_threads(1)
    torch.manual_seed(0)
    options = {"dropout": 0.0} if name != "motionformer_16x4" else {}
    if name != "x3d_m":
        options["drop_path"] = 0.0
    spec = {**SMALL[name], "frames": 8, **options}
    net = teachers.load(name, None, 2, progress=False, **spec).net.train()
    forwards = torch.randn(4, 3, 1, 32, 32) + torch.linspace(-2, 2, 8).view(1, 1, 8, 1, 1)
    clips, labels = torch.cat([forwards, forwards.flip(2)]), torch.tensor([0] * 4 + [1] * 4)
    optimiser = torch.optim.AdamW([p for p in net.parameters() if p.requires_grad], lr=1e-2)
    for _ in range(20):
        loss = nn.functional.cross_entropy(net(clips).logits, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.1


@pytest.mark.parametrize("name", ["motionformer_16x4", "mvit_b_16x4", "x3d_m"])
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


@pytest.mark.parametrize("name", ["motionformer_16x4", "mvit_b_16x4"])
def test_gradient_checkpointing_changes_no_gradient(name):
    teacher = small(name).train()
    clip = torch.from_numpy(random_clips(2, frames=teacher.clip_spec.frames))
    found = []
    for teacher.net.gradient_checkpointing in (False, True):
        torch.manual_seed(0)  # the same branches are dropped
        teacher.zero_grad()
        teacher(clip).logits.square().sum().backward()
        found.append([p.grad.clone() for p in teacher.parameters() if p.grad is not None])
    assert len(found[0]) > 20
    for one, other in zip(*found, strict=True):
        torch.testing.assert_close(one, other)


def test_drop_path_drops_whole_branches_of_clips():
    torch.manual_seed(0)
    x = torch.ones(4000, 3, 2)
    y = teachers._drop_path(x, 0.25, True)
    assert torch.equal(y, y[:, :1, :1].expand_as(y))
    assert y.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert y.mean().item() == pytest.approx(1, abs=0.03)
    assert teachers._drop_path(x, 0.25, False) is x
    rates = [block.drop_path for block in small("mvit_b_16x4", drop_path=0.3).net.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize(("kernel", "frames"), [((3, 1, 1), 2), ((5, 1, 1), 2), ((7, 1, 1), 4)])
def test_gradients_of_short_clips_in_bf16(kernel, frames):
    """torch 2.13 alone gives numbers of any size here, on CPUs that have bf16."""
    torch.manual_seed(0)
    layer = teachers._conv((32, 8), kernel)
    x = torch.randn(4, 32, frames, 7, 7)
    found = []
    for mixed in (False, True):
        layer.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            y = layer(x.bfloat16() if mixed else x)
        (y.float() * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum().backward()
        found.append(layer.weight.grad.clone())
    torch.testing.assert_close(found[1], found[0], rtol=0.05, atol=0.02 * found[0].abs().max().item())
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16  # where nothing is learnt, nothing is slower


# --- SlowFast --------------------------------------------------------------------------------


def test_the_slow_pathway_sees_a_truncated_linspace():
    assert teachers.SlowFast(2, **NARROW).slow_index == (0, 4, 8, 13, 17, 22, 26, 31)
    for frames, alpha in ((16, 4), (16, 2), (64, 4), (8, 8)):
        index = teachers.SlowFast(2, frames=frames, alpha=alpha, **NARROW).slow_index
        assert index == tuple(np.linspace(0, frames - 1, frames // alpha).astype(int))


def test_the_pathways_see_their_frames():
    """A change in one frame reaches the slow stem only if it is a frame of the slow pathway."""
    net = narrow().net
    seen = []
    net.s1["pathway0_stem"].register_forward_pre_hook(lambda layer, inputs: seen.append(inputs[0]))
    clip = torch.arange(8.0).view(1, 1, 8, 1, 1).expand(1, 3, 8, 32, 32)
    net(clip)
    assert seen[0][0, 0, :, 0, 0].tolist() == [0, 7]


@pytest.mark.parametrize("alpha", [2, 4, 8, 16])
def test_any_alpha_and_depth(alpha):
    net = teachers.SlowFast(5, frames=16, alpha=alpha, width=16, beta=8, depths=(1, 2, 2, 1))
    feature, logits = net(torch.randn(2, 3, 16, 64, 48))
    assert (feature.shape, logits.shape) == ((2, 32 * 18), (2, 5))
    assert "s3.pathway1_res1.branch2.a.weight" in net.state_dict()
    assert "s3.pathway1_res1.branch1.weight" not in net.state_dict()


def test_large_crops_are_averaged_over_positions():
    net = narrow().net
    clip = torch.randn(1, 3, 8, 256, 224)
    with torch.no_grad():
        places, mean = net.positions(clip), net(clip)
    assert places.feature.shape == (1, 2, 1, net.feature_dim)
    assert not torch.allclose(places.feature[:, 0], places.feature[:, 1], atol=1e-3)
    for one, every in zip(mean, places, strict=True):
        torch.testing.assert_close(one, (every[:, 0, 0] + every[:, 1, 0]) / 2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"frames": 30}, ["alpha=4", "frames=30"]),
        ({"width": 20, "beta": 8}, ["beta=8", "width=20"]),
        ({"depths": (1, 1, 1)}, ["depths", "(1, 1, 1)"]),
        ({"slow_time_kernels": (1, 1, 2, 3)}, ["odd", "2"]),
    ],
)
def test_impossible_networks_are_refused(options, words):
    with pytest.raises(teachers.TeacherError) as caught:
        teachers.SlowFast(2, **options)
    assert all(word in str(caught.value) for word in words)


def test_mixed_precision_and_memory_format():
    torch.manual_seed(0)
    net = teachers.SlowFast(4, frames=16, width=16, beta=4, depths=(1, 1, 1, 1), dropout=0.0)
    clip = torch.randn(2, 3, 16, 112, 112)
    plain = net(clip)
    net = net.to(memory_format=torch.channels_last_3d)
    for one, other in zip(plain, net(clip), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)

    outputs = []
    for layer in net.modules():
        if isinstance(layer, nn.Conv3d):
            layer.register_forward_hook(lambda layer, inputs, output: outputs.append(output))
    with torch.autocast("cpu", torch.bfloat16):
        feature, logits = net(clip)
    assert len(outputs) == 38 and all(output.dtype == torch.bfloat16 for output in outputs)
    if egodistill.has_bf16_kernels():  # torch's own bf16 convolutions are contiguous
        assert all(output.is_contiguous(memory_format=torch.channels_last_3d) for output in outputs)
    nn.functional.cross_entropy(logits.float(), torch.tensor([0, 3])).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert torch.nn.functional.cosine_similarity(feature.float(), plain.feature).min() > 0.999


def test_it_learns():
    """Fresh weights fit eight clips that differ only in the order of their frames."""
    torch.set_num_threads(1)  # for layers this small, more threads only wait for each other
    torch.manual_seed(0)
    net = teachers.SlowFast(2, frames=8, dropout=0.0, **NARROW)
    forwards = torch.randn(4, 3, 8, 32, 32).cumsum(2)
    clips, labels = torch.cat([forwards, forwards.flip(2)]), torch.tensor([0] * 4 + [1] * 4)
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(30):
        loss = nn.functional.cross_entropy(net(clips).logits, labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.1


# --- what all teachers share -----------------------------------------------------------------


class Recorder(nn.Module):
    """A network that keeps what it got."""

    def forward(self, x):
        self.x = x
        return x.mean((2, 3, 4)), x.mean((2, 3, 4))[:, :2]


def recorder(**spec):
    spec = teachers.ClipSpec(**{"frames": 2, "size": 4, **spec})
    return teachers.Teacher(Recorder(), clip_spec=spec, feature_dim=3, class_names=["a", "b"])


@pytest.mark.parametrize("channels", ["RGB", "BGR"])
def test_normalisation_by_hand(channels):
    teacher = recorder(mean=(0.1, 0.2, 0.3), std=(0.5, 0.25, 0.125), channels=channels)
    clip = random_clips(2, frames=2, size=4)
    output = teacher(torch.from_numpy(clip))
    assert isinstance(output, teachers.Output)
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
    spec = teachers.ClipSpec(2, 4)
    teacher = teachers.Teacher(Recorder(), clip_spec=spec, feature_dim=3, class_names=["a", "b", "c"])
    with pytest.raises(teachers.TeacherError, match=r"\(1, 2\).*\(1, 3\)"):
        teacher(torch.zeros(1, 2, 3, 4, 4, dtype=torch.uint8))


def test_bad_descriptions_are_refused():
    with pytest.raises(teachers.TeacherError, match="GBR"):
        teachers.ClipSpec(8, 32, channels="GBR")
    with pytest.raises(teachers.TeacherError, match="std"):
        teachers.ClipSpec(8, 32, std=(0.2, 0.2, 0.0))
    with pytest.raises(teachers.TeacherError, match="frames=0"):
        teachers.ClipSpec(0, 32)
    with pytest.raises(teachers.TeacherError, match="2 class names"):
        teachers.slowfast(3, class_names=["a", "b"], frames=8, **NARROW)
    with pytest.raises(teachers.TeacherError, match="a/b"):
        teachers.slowfast(3, name="a/b", frames=8, **NARROW)


def test_factory_defaults_are_the_published_model():
    with torch.device("meta"):
        teacher = teachers.slowfast(5)
    assert teacher.clip_spec == teachers.ClipSpec(32, 224, 64 / 30, (0.45,) * 3, (0.225,) * 3, "RGB")
    assert (teacher.feature_dim, teacher.name, teacher.inputs) == (2304, "slowfast", ("clip",))
    assert teacher.class_names == ["0", "1", "2", "3", "4"]


def test_example_is_what_forward_takes():
    teacher = narrow()
    assert len(teacher.example(2)) == len(teacher.inputs)
    assert teacher(*teacher.example(2)).logits.shape == (2, 3)


@pytest.mark.parametrize("name", SMALL)
def test_every_network_behind_the_face(name, tmp_path):
    """uint8 RGB of any size in, encode() of the clip normalised by hand out; kept by save()."""
    teacher = small(name)
    spec = teacher.clip_spec
    clip = random_clips(2, frames=spec.frames, size=spec.size)
    x = (clip / 255 - 0.5) / 0.5 if "motionformer" in name else (clip / 255 - 0.45) / 0.225
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


@pytest.mark.parametrize("name", ["motionformer_16x4", "mvit_b_16x4", "x3d_m"])
def test_clips_of_another_shape_are_refused_by_networks(name):
    net = small(name).net
    with pytest.raises(teachers.TeacherError, match=r"\[1, 4, 8, 32, 32\].*\[B, 3, "):
        net(torch.zeros(1, 4, 8, 32, 32))


# --- files -----------------------------------------------------------------------------------


def test_a_file_holds_everything(tmp_path):
    teacher = narrow(mean=(0.1, 0.2, 0.3), channels="BGR", seconds=1.5, name="mine", stem_size=5)
    clip = torch.from_numpy(random_clips(2))
    teacher.save(tmp_path / "teacher.pt")
    assert [path.name for path in tmp_path.iterdir()] == ["teacher.pt"]

    state = torch.get_rng_state()
    copy = teachers.Teacher.load(tmp_path / "teacher.pt")
    assert torch.equal(state, torch.get_rng_state())  # loading is not a random event
    assert not copy.training
    for one, other in zip(teacher(clip), copy(clip), strict=True):
        assert torch.equal(one, other)
    for field in ("clip_spec", "class_names", "name", "feature_dim"):
        assert getattr(copy, field) == getattr(teacher, field)
    copy.train()(clip).logits.sum().backward()  # and it can be trained on
    assert copy.net.head.projection.weight.grad is not None


def test_an_interrupted_save_leaves_the_old_file(tmp_path, monkeypatch):
    path = tmp_path / "teacher.pt"
    narrow(seed=1).save(path)
    before = path.read_bytes()

    def killed(content, target):
        target.write(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        narrow(seed=2).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


def test_a_full_disk_leaves_the_old_file(tmp_path, full_disk):
    path = tmp_path / "teacher.pt"
    narrow(seed=1).save(path)
    before = path.read_bytes()
    with full_disk(len(before) // 2), pytest.raises(teachers.TeacherError) as error:
        narrow(seed=2).save(path)
    assert f"{path} cannot be written ([Errno 27] File too large" in str(error.value) and "room" in str(error.value)
    assert path.read_bytes() == before and list(tmp_path.iterdir()) == [path]


def change(path, edit):
    content = torch.load(path, weights_only=True)
    edit(content)
    torch.save(content, path)


def lose_a_weight(content):
    del content["weights"]["s2_fuse.bn.bias"]


def add_a_weight(content):
    content["weights"]["s9.weight"] = torch.zeros(2)


def reshape_a_weight(content):
    content["weights"]["head.projection.bias"] = torch.zeros(7)


def round_a_weight(content):
    content["weights"]["head.projection.bias"] = torch.zeros(3, dtype=torch.float16)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (lose_a_weight, ["missing: s2_fuse.bn.bias"]),
        (add_a_weight, ["unexpected: s9.weight"]),
        (reshape_a_weight, ["head.projection.bias", "[7]", "[3]"]),
        (round_a_weight, ["head.projection.bias", "float16"]),
        (lambda content: content.update(format="other"), ["not a teacher"]),
        (lambda content: content.update(version=99), ["99", "version 1"]),
        (lambda content: content.update(architecture="Nothing"), ["Nothing"]),
        (lambda content: content["options"].update(colour="red"), ["colour"]),
        (lambda content: content["options"].update(width=-8), ["does not build"]),
        (lambda content: content.pop("class_names"), ["class_names"]),
        (lambda content: content.update(weights=[1, 2]), ["does not build"]),
        (lambda content: content["weights"].update(x=3), ["x: not a tensor"]),
    ],
)
def test_files_that_do_not_fit_are_refused(tmp_path, edit, words):
    path = tmp_path / "teacher.pt"
    narrow().save(path)
    change(path, edit)
    with pytest.raises(teachers.TeacherError) as caught:
        teachers.Teacher.load(path)
    assert all(word in str(caught.value) for word in [str(path), *words])


def test_foreign_and_truncated_files_are_named(tmp_path):
    whole = tmp_path / "whole.pt"
    narrow().save(whole)
    contents = {
        "cut.pt": whole.read_bytes()[:-4000],
        "text.pt": b"not a checkpoint\n" * 100,
        "empty.pt": b"",
    }
    for name, content in contents.items():
        (tmp_path / name).write_bytes(content)
        with pytest.raises(teachers.TeacherError, match=name):
            teachers.Teacher.load(tmp_path / name)
    torch.save([1, 2], tmp_path / "list.pt")
    with pytest.raises(teachers.TeacherError, match=r"list\.pt"):
        teachers.Teacher.load(tmp_path / "list.pt")
    with pytest.raises(FileNotFoundError, match=r"absent\.pt"):
        teachers.Teacher.load(tmp_path / "absent.pt")


class Malicious:
    def __init__(self, path):
        self.path = path

    def __reduce__(self):
        return (open, (str(self.path), "w"))


@pytest.mark.parametrize("writer", [torch.save, lambda x, path: path.write_bytes(pickle.dumps(x, 2))])
def test_code_in_a_file_does_not_run(tmp_path, writer):
    writer({"format": "egodistill.teacher", "version": Malicious(tmp_path / "ran")}, tmp_path / "x")
    with pytest.raises(teachers.TeacherError):
        teachers.Teacher.load(tmp_path / "x")
    assert not (tmp_path / "ran").exists()


# --- published checkpoints -------------------------------------------------------------------


def as_pytorchvideo(state, network):
    """Keys as pytorchvideo has them, from ours (= PySlowFast's)."""
    renamed = {}
    for key, value in state.items():
        stage = re.match(r"s(\d)\.pathway(\d)_res(\d+)\.(.*)", key)
        fusion = re.match(r"s(\d)_fuse\.(conv_f2s|bn)\.(.*)", key)
        if stage:
            number, pathway, block, rest = stage.groups()
            path = "" if network == "x3d_m" else f"multipathway_blocks.{pathway}."
            rest = re.sub(r"^branch1\.", "branch1_conv.", rest).replace("branch1_bn", "branch1_norm")
            rest = rest.replace("branch2.se.fc1", "branch2.norm_b.1.block.0")
            rest = rest.replace("branch2.se.fc2", "branch2.norm_b.1.block.2")
            norm_b = "norm_b.0" if network == "x3d_m" else "norm_b"
            rest = re.sub(r"branch2\.b_bn", f"branch2.{norm_b}", rest)
            rest = re.sub(r"branch2\.([ac])_bn", r"branch2.norm_\1", rest)
            rest = re.sub(r"branch2\.([abc])\.", r"branch2.conv_\1.", rest)
            key = f"blocks.{int(number) - 1}.{path}res_blocks.{block}.{rest}"
        elif fusion:
            number, part, rest = fusion.groups()
            part = {"conv_f2s": "conv_fast_to_slow", "bn": "norm"}[part]
            key = f"blocks.{int(number) - 1}.multipathway_fusion.{part}.{rest}"
        elif network == "x3d_m":
            key = key.replace("s1.pathway0_stem.conv_xy", "blocks.0.conv.conv_t")
            key = key.replace("s1.pathway0_stem.conv", "blocks.0.conv.conv_xy")
            key = key.replace("s1.pathway0_stem.bn", "blocks.0.norm")
            key = key.replace("head.conv_5_bn", "blocks.5.pool.pre_norm")
            key = key.replace("head.conv_5", "blocks.5.pool.pre_conv")
            key = key.replace("head.lin_5", "blocks.5.pool.post_conv")
            key = key.replace("head.projection", "blocks.5.proj")
        else:
            key = re.sub(r"s1\.pathway(\d)_stem", r"blocks.0.multipathway_blocks.\1", key)
            key = key.replace(".bn.", ".norm.").replace("head.projection", "blocks.6.proj")
        renamed[key] = value
    return renamed


def as_caffe2(state):
    """Blobs of a SlowFast as Caffe2 names them, which counts no batches and knows momentum."""
    norm = {"weight": "s", "bias": "b", "running_mean": "rm", "running_var": "riv"}
    fused = {"1": "t_pool1_subsample"}
    fused |= {k: f"t_res{k}_0_branch2c_bn_subsample" for k in "234"}  # depth 1: the last is 0
    blobs = {"lr": np.float32(0.1), "model_iter": np.int64(3)}
    for key, value in state.items():
        *path, last = key.split(".")
        if last == "num_batches_tracked":
            continue
        t = "t_" if "pathway1" in key else ""
        letter = norm[last] if "bn" in path[-1] else {"weight": "w", "bias": "b"}[last]
        if path[0] == "head":
            blob = f"pred_{letter}"
        elif path[0].endswith("_fuse"):
            blob = fused[path[0][1]] + ("_bn_" if path[1] == "bn" else "_") + letter
        elif path[0] == "s1":
            blob = t + (f"res_conv1_bn_{letter}" if path[2] == "bn" else f"conv1_{letter}")
        else:
            blob = f"{t}res{path[0][1]}_{path[1][-1]}_" + "".join(path[2:]) + f"_{letter}"
        blobs[blob] = value.numpy()
        blobs[f"{blob}_momentum"] = value.numpy()
    return blobs


def as_published(name, layout):
    """(the teacher that a file was made from, what lies in the file)."""
    shortcut = {"first_shortcut_norm": False} if (name, layout) == ("x3d_m", "pytorchvideo") else {}
    if name == "mvit_b_16x4" and layout == "pytorchvideo":
        shortcut = {"pool_eps": 1e-5}
    teacher = small(name, **shortcut)
    state = dict(teacher.net.state_dict())
    if layout == "pytorchvideo" and name != "mvit_b_16x4":
        state = as_pytorchvideo(state, name)
    elif layout == "Caffe2":
        state = as_caffe2(state)
    elif layout == "pytorchvideo":
        places = {"patch_embed.proj": "patch_embed.patch_model", "norm.": "norm_embed."}
        places["head.projection"] = "head.proj"
        for key in list(state):
            new = key if key.startswith("blocks") else f"cls_positional_encoding.{key}"
            for ours, theirs in places.items():
                new = key.replace(ours, theirs) if key.startswith(ours) else new
            state[new] = state.pop(key)
            if ".attn.qkv." in key:
                for letter, part in zip("qkv", state.pop(key).chunk(3), strict=True):
                    state[key.replace("qkv", letter)] = part
            if ".attn.pool_k." in key:  # a second name for the same tensor
                alias = key.replace("pool_k.", "_attention_pool_k.pool.")
                state[alias] = state[key]
    return teacher, state


LAYOUTS = [
    ("motionformer_16x4", "Motionformer"),
    ("epic_motionformer_16x4", "Motionformer"),
    ("mvit_b_16x4", "PySlowFast"),
    ("mvit_b_16x4", "pytorchvideo"),
    ("x3d_m", "PySlowFast"),
    ("x3d_m", "pytorchvideo"),
    ("slowfast_8x8_r50", "PySlowFast"),
    ("slowfast_8x8_r50", "pytorchvideo"),
    ("slowfast_8x8_r50", "Caffe2"),
]


@pytest.mark.parametrize(("name", "layout"), LAYOUTS)
def test_every_layout_is_recognised(name, layout, tmp_path, capsys):
    wanted, state = as_published(name, layout)
    path = tmp_path / ("file.pkl" if layout == "Caffe2" else "file.pyth")
    if layout == "Caffe2":
        path.write_bytes(pickle.dumps({"blobs": state}, 2))
    else:
        torch.save({"epoch": 3, "model_state": state, "optimizer_state": {}, "cfg": "A: 1"}, path)
    unsafe = layout == "Caffe2"
    found = teachers.load(name, path, unsafe_pickle=unsafe, **SMALL[name])
    clip = torch.from_numpy(random_clips(2, frames=found.clip_spec.frames))
    with torch.no_grad():
        for one, other in zip(found(clip), wanted(clip), strict=True):
            assert torch.equal(one, other)
    said = capsys.readouterr().err
    ignored = [key for key in state if re.search("_attention_pool|momentum|^lr$|^model_iter", key)]
    for word in (name, str(path), layout, f"{len(state) - len(ignored)} tensors"):
        assert word in said
    assert (f"ignoring {len(ignored)}" in said) == bool(ignored)
    assert found.net.options == {**wanted.net.options}


@pytest.mark.parametrize("container", ["state_dict", "bare", "module.", "half", "mapping"])
def test_containers(container, tmp_path):
    wanted = small("x3d_m")
    state = wanted.net.state_dict()
    if container == "module.":
        state = {f"module.{key}": value for key, value in state.items()}
    if container == "half":
        state = {k: v.double() if v.is_floating_point() else v for k, v in state.items()}
    content = {"state_dict": state} if container == "state_dict" else state
    if container != "mapping":
        torch.save(content, tmp_path / "x.pth")
        content = tmp_path / "x.pth"
    found = teachers.load("x3d_m", content, progress=False, **SMALL_X3D)
    for key, value in found.net.state_dict().items():
        assert torch.equal(value, wanted.net.state_dict()[key])
    assert found.net.head.projection.weight.dtype == torch.float32
    with torch.no_grad():  # the caller's own tensors are not the teacher's
        found.net.head.projection.weight.zero_()
    assert wanted.net.head.projection.weight.abs().min() > 0


def test_x3d_with_and_without_the_first_shortcut_norm():
    state = as_published("x3d_m", "pytorchvideo")[1]
    found = teachers.load("x3d_m", state, progress=False, **SMALL_X3D)
    assert found.net.s2.pathway0_res0.branch1_bn is None
    state = as_published("x3d_m", "PySlowFast")[1]
    found = teachers.load("x3d_m", state, progress=False, **SMALL_X3D)
    assert found.net.s2.pathway0_res0.branch1_bn is not None


def test_the_oldest_mvit_pools_nothing_where_there_is_no_stride():
    options = {**SMALL_MVIT, "kv_stride": 2}  # strides of 2, 1 and 1
    old = teachers.load("mvit_b_16x4", None, 3, pool_unstrided=False, progress=False, **options)
    assert "blocks.3.attn.pool_k.weight" not in old.net.state_dict()
    found = teachers.load("mvit_b_16x4", settle(old.net).state_dict(), progress=False, **options)
    assert found.net.options["pool_unstrided"] is False


def test_learnt_positions_come_from_the_checkpoint():
    """A larger crop resizes them; it does not ask for a checkpoint of its own."""
    state = small("motionformer_16x4").net.state_dict()
    options = {**SMALL_MOTIONFORMER, "size": 64}
    found = teachers.load("motionformer_16x4", state, progress=False, **options)
    assert (found.clip_spec.size, found.net.grid) == (64, 4)
    assert found(*found.example()).feature.shape == (1, 24)


def test_classes_of_a_checkpoint(capsys):
    state = small("x3d_m", 7).net.state_dict()
    assert teachers.load("x3d_m", state, **SMALL_X3D).class_names == list("0123456")
    labels = [f"verb {i}" for i in range(7)]
    assert teachers.load("x3d_m", state, class_names=labels, **SMALL_X3D).class_names == labels
    for wrong in ({"num_classes": 3}, {"class_names": ["a", "b", "c"]}):
        with pytest.raises(teachers.TeacherError, match=r"\b7 classes.*new_head=True"):
            teachers.load("x3d_m", state, **wrong, **SMALL_X3D)

    capsys.readouterr()
    torch.manual_seed(0)
    new = teachers.load("x3d_m", state, class_names=["a", "b"], new_head=True, **SMALL_X3D)
    assert "fresh classifier of 2 classes in place of its 7" in capsys.readouterr().err
    assert new.net.head.projection.weight.shape == (2, 20)
    assert 0.001 < new.net.head.projection.weight.std() < 0.1
    assert not new.net.head.projection.bias.any()
    assert torch.equal(new.net.head.lin_5.weight, state["head.lin_5.weight"])

    del state["head.projection.weight"], state["head.projection.bias"]
    with pytest.raises(teachers.TeacherError, match="no classifier"):
        teachers.load("x3d_m", state, **SMALL_X3D)
    assert len(teachers.load("x3d_m", state, 4, new_head=True, **SMALL_X3D).class_names) == 4
    with pytest.raises(teachers.TeacherError, match="num_classes or class_names"):
        teachers.load("x3d_m", state, new_head=True, **SMALL_X3D)


def test_two_heads_mean_another_order_of_channels():
    """The weights of EPIC-KITCHENS fit Kinetics' network all too well: only colours would differ."""
    two = small("epic_motionformer_16x4").net.state_dict()
    one = small("motionformer_16x4").net.state_dict()
    for name, state in (("motionformer_16x4", two), ("epic_motionformer_16x4", one)):
        with pytest.raises(teachers.TeacherError, match=r"BGR.*epic_"):
            teachers.load(name, state, progress=False, **SMALL_MOTIONFORMER)
    options = {"progress": False, **SMALL_MOTIONFORMER}
    meant = teachers.load("motionformer_16x4", two, (3, 5), **options)
    assert meant.clip_spec.channels == "RGB"
    start = teachers.load("epic_motionformer_16x4", two, 4, new_head=True, **options)
    assert start.net.head.weight.shape == (4, 24) and start.clip_spec.channels == "BGR"
    assert "head0.weight" not in start.net.state_dict()


def drop(key):
    return lambda state: state.pop(key)


@pytest.mark.parametrize(
    ("edit", "words"),
    [
        (drop("blocks.1.norm1.bias"), ["missing: blocks.1.norm1.bias"]),
        (lambda s: s.update(extra=torch.zeros(2)), ["unexpected: extra"]),
        (
            lambda s: s.update({"temp_embed": torch.zeros(1, 4, 24)}),
            ["temp_embed", "[1, 4, 24] in the file", "[1, 3, 24] in the network"],
        ),
        (lambda s: s.update({"norm.bias": torch.zeros(24, dtype=torch.int64)}), ["int64"]),
        (lambda s: s.update({"norm.bias": "text"}), ["norm.bias: not a tensor but a str"]),
        (lambda s: s["norm.bias"].fill_(math.nan), ["norm.bias: not all", "finite"]),
        (
            lambda s: [s.pop(k) for k in list(s) if "blocks" in k],
            ["missing: blocks.0", "and 12 more"],
        ),
    ],
)
def test_checkpoints_that_do_not_fit_are_refused(tmp_path, edit, words):
    state = {k: v.clone() for k, v in small("motionformer_16x4").net.state_dict().items()}
    edit(state)
    torch.save({"model_state": state}, tmp_path / "bad.pyth")
    with pytest.raises(teachers.TeacherError) as caught:
        teachers.load("motionformer_16x4", tmp_path / "bad.pyth", **SMALL_MOTIONFORMER)
    assert all(word in str(caught.value) for word in [str(tmp_path / "bad.pyth"), *words])


def test_problems_are_told_in_the_words_of_the_file():
    state = as_published("x3d_m", "pytorchvideo")[1]
    state["blocks.5.pool.pre_conv.weight"] = torch.zeros(3)
    with pytest.raises(teachers.TeacherError, match=r"blocks\.5\.pool\.pre_conv\.weight: .*\[3\]"):
        teachers.load("x3d_m", state, **SMALL_X3D)


def test_weights_of_another_model_are_named():
    state = as_published("x3d_m", "pytorchvideo")[1]
    with pytest.raises(teachers.TeacherError, match=r"X3D weights.*pytorchvideo.*SlowFast.*asked for.*x3d_m"):
        teachers.load("slowfast_8x8_r50", state, **SMALL_SLOWFAST)
    with pytest.raises(teachers.TeacherError, match=r"missing: s2\.pathway0_res1"):  # another size
        teachers.load("x3d_m", small("x3d_m").net.state_dict(), **{**SMALL_X3D, "depth_factor": 2})
    for strange in ({"fc.weight": torch.zeros(2)}, {}):
        with pytest.raises(teachers.TeacherError, match="none of the layouts"):
            teachers.load("x3d_m", strange)
    with pytest.raises(teachers.TeacherError, match="no weights by name"):
        teachers.load("x3d_m", {1: torch.zeros(2)})


def test_damaged_and_foreign_checkpoints_are_named(tmp_path):
    whole = tmp_path / "whole.pyth"
    torch.save({"model_state": small("x3d_m").net.state_dict()}, whole)
    files = {
        "cut.pyth": whole.read_bytes()[:-3000],
        "text.pth": b"<html>404 not found</html>\n" * 30,
        "empty.pyth": b"",
        "text.pkl": b"not a pickle",
        "empty.pkl": b"",
    }
    for name, content in files.items():
        (tmp_path / name).write_bytes(content)
    torch.save([1, 2], tmp_path / "list.pyth")
    small("x3d_m").save(tmp_path / "ours.pt")
    for name, words in [
        *((name, "cannot be read") for name in files),
        ("list.pyth", "a list"),
        ("ours.pt", r"Teacher\.load"),
    ]:
        with pytest.raises(teachers.TeacherError, match=rf"{re.escape(name)} .*{words}") as error:
            teachers.load("x3d_m", tmp_path / name, unsafe_pickle=True)
        assert "weights_only" not in str(error.value)  # torch's advice is to switch the guard off
    for name in ("absent.pyth", "absent.pkl"):
        with pytest.raises(FileNotFoundError, match=name):
            teachers.load("x3d_m", tmp_path / name, unsafe_pickle=True)


@pytest.mark.parametrize("name", ["x.pyth", "x.pkl", "zip.pyth"])
@pytest.mark.parametrize("unsafe", [False, True])
def test_code_in_a_checkpoint_does_not_run(tmp_path, name, unsafe):
    """Not even with unsafe_pickle: of a pickle, only arrays are taken."""
    content = {"model_state": {"x": Malicious(tmp_path / "ran")}, "blobs": {}}
    if name.startswith("zip"):
        torch.save(content, tmp_path / name)
    else:
        (tmp_path / name).write_bytes(pickle.dumps(content, 2))
    with pytest.raises(teachers.TeacherError, match=name):
        teachers.load("slowfast_8x8_r50", tmp_path / name, unsafe_pickle=unsafe)
    assert not (tmp_path / "ran").exists()


def test_caffe2_files_ask_for_trust(tmp_path):
    blobs = as_published("slowfast_8x8_r50", "Caffe2")[1]
    (tmp_path / "x.pkl").write_bytes(pickle.dumps({"blobs": blobs}, 2))
    with pytest.raises(teachers.TeacherError, match=r"x\.pkl.*run any code.*unsafe_pickle=True"):
        teachers.load("slowfast_8x8_r50", tmp_path / "x.pkl", **SMALL_SLOWFAST)


# --- other people's models -------------------------------------------------------------------


def test_wrap_takes_feature_and_logits_of_a_torchvision_model():
    torch.manual_seed(0)
    module = r3d_18(num_classes=3).eval()
    teacher = teachers.Teacher.wrap(
        module,
        feature_layer="fc",
        clip_spec=teachers.ClipSpec(4, 32),
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
        teachers.Teacher.wrap(module, feature_layer="head", clip_spec=teachers.ClipSpec(4, 32), class_names=LABELS)
    with pytest.raises(teachers.TeacherError, match="3 scores for 2"):
        teachers.Teacher.wrap(module, feature_layer="fc", clip_spec=teachers.ClipSpec(4, 32), class_names=["a", "b"])


def test_wrap_takes_a_video_transformer_in_one_line():
    torch.manual_seed(0)
    module = swin3d_t(num_classes=4).eval()
    spec = teachers.ClipSpec(4, 64)
    teacher = teachers.Teacher.wrap(module, feature_layer="head", clip_spec=spec)
    assert (teacher.feature_dim, teacher.name) == (768, "swintransformer3d")
    assert teacher.class_names == ["0", "1", "2", "3"] and teacher.classifier is module.head
    with torch.no_grad():
        feature, logits = teacher(*teacher.example(2))
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
        clip_spec=teachers.ClipSpec(2, 4),
        class_names=["a", "b"],
    )
    x = torch.randn(2, 3, 2, 4, 4)
    feature, logits = teacher.encode(x)
    torch.testing.assert_close(feature, x.mean((2, 3, 4)))
    wanted = feature @ layer.weight.flatten(1).T + layer.bias
    torch.testing.assert_close(logits, wanted)


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
    with pytest.raises(teachers.TeacherError, match=r"slowfast\.teacher\.json.*fingerprint.*overwrite"):
        teachers.extract(second, store, progress=False)
    same_weights = narrow(seed=0)
    same_weights.clip_spec = replace(same_weights.clip_spec, channels="BGR")
    with pytest.raises(teachers.TeacherError, match="fingerprint"):
        teachers.extract(same_weights, store, progress=False)
    with pytest.raises(teachers.TeacherError, match=r"precision fp32.*bf16"):
        teachers.extract(first, store, precision="bf16", progress=False)
    np.testing.assert_array_equal(store.arrays["slowfast.feature"], kept)

    # A run that overwrites and is killed leaves outputs of both; none may go on from there.
    killed = narrow(seed=1)
    count_clips(killed, stop_after=1)
    with pytest.raises(KeyboardInterrupt):
        teachers.extract(killed, store, batch_size=2, overwrite=True, progress=False)
    for teacher in (first, second):
        with pytest.raises(teachers.TeacherError, match="interrupted"):
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
    with pytest.raises(teachers.TeacherError, match=r"\['train'\].*another.*\['test'\]"):
        teachers.extract(second, store, overwrite=True, progress=False)
    teachers.extract(first, store, overwrite=True, progress=False)  # the same one may
    store.splits = ["test", "train"]
    teachers.extract(second, store, overwrite=True, progress=False)


def test_extract_refuses_outputs_of_unknown_origin(store):
    teachers.extract(narrow(), store, progress=False)
    (store.path / "slowfast.teacher.json").unlink()
    with pytest.raises(teachers.TeacherError, match="fingerprint None"):
        teachers.extract(narrow(), store, progress=False)


def test_progress_covers_its_last_line_with_spaces(capsys, monkeypatch):
    """An old console of Windows shows the escape that clears a line."""
    monkeypatch.setattr(sys.stderr, "isatty", lambda: True)
    bar = teachers._Progress("slowfast: extract", 1000)
    bar.add(999)
    bar._draw("")
    bar.close()
    said = capsys.readouterr().err
    assert "\x1b" not in said and {len(line) for line in said.rstrip("\n").split("\r")[1:]} == {79}


def test_a_damaged_record_is_named(store):
    for text in ("{", "[1]", "3"):
        (store.path / "slowfast.teacher.json").write_text(text)
        with pytest.raises(teachers.TeacherError, match=r"slowfast\.teacher\.json cannot be read.*delete it.*over"):
            teachers.extract(narrow(), store, progress=False)


def test_the_second_of_two_teachers_with_one_name_sees_the_first(store):
    """Both begin at once: while one puts its name on the arrays, the other waits."""
    refused = []

    def second():
        with pytest.raises(teachers.TeacherError, match="fingerprint") as error:
            teachers.extract(narrow(seed=1), store, progress=False)
        refused.append(error)

    other = threading.Thread(target=second)
    with teachers._one_at_a_time(store.path):
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
    with pytest.raises(teachers.TeacherError, match=r"slowfast\.teacher\.json: another run has overwritten"):
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
    files = {file.name for file in Path(path).iterdir()}
    # A record that has not got its name lies there, hidden; it is in nobody's way.
    assert {name for name in files if not name.startswith(".")} == {file.name for file in whole.iterdir()}


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
        with full_disk(size), pytest.raises(ValueError, match=rf"s/{file}:? cannot be written.*the same call goes on"):
            teachers.extract(narrow(), data.ClipStore(path), progress=False)
        left = {file.name: file.read_bytes() for file in path.iterdir()}
        assert before.items() <= left.items()
        assert not [name for name in left if "partial" in name] and outputs(path) == {}
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
    with pytest.raises(teachers.TeacherError, match="fp16"):
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
    with pytest.raises(teachers.TeacherError, match=r"views 3, this run has 1"):
        teachers.extract(teacher, store, progress=False)
    with pytest.raises(teachers.TeacherError, match=r"too few for 3 views of 32; .*clip_size=37"):
        teachers.extract(teacher, Store(tmp_path, random_clips(2)), views=3)
    with pytest.raises(teachers.TeacherError, match="views is 2"):
        teachers.extract(teacher, store, views=2)


def test_extract_says_where_clips_last_longer_than_the_teacher_s(store):
    store.settings = {"clip_seconds": 80 / 30}
    with pytest.warns(UserWarning, match=r"last 2.67 s, those that teacher 'slowfast' was trained on 2.13 s"):
        teachers.extract(narrow(), store, progress=False)


def test_extract_shares_the_clips_by_rank(store, monkeypatch):
    """Each process takes its share, by arguments or as torchrun sets them; a dead one's is taken up."""
    teacher = narrow()
    teachers.extract(teacher, store, rank=1, world_size=3, progress=False)
    assert np.flatnonzero(store.done("slowfast.feature")).tolist() == [1, 4]
    monkeypatch.setenv("RANK", "0")
    monkeypatch.setenv("WORLD_SIZE", "3")
    teachers.extract(teacher, store, progress=False)
    assert np.flatnonzero(store.done("slowfast.logits")).tolist() == [0, 1, 3, 4]
    with pytest.raises(teachers.TeacherError, match="for a single process"):
        teachers.extract(teacher, store, overwrite=True)
    monkeypatch.delenv("RANK")
    monkeypatch.delenv("WORLD_SIZE")
    sizes = count_clips(teacher)
    teachers.extract(teacher, store, progress=False)
    assert sizes == [1] and store.done("slowfast.feature").all()
    with pytest.raises(teachers.TeacherError, match="rank 3 is not one of the 3"):
        teachers.extract(teacher, store, rank=3, world_size=3)


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


def test_extract_refuses_stores_that_do_not_fit(tmp_path):
    teacher = narrow()
    with pytest.raises(teachers.TeacherError, match=r"class 1: \['put'\] and \['pour'\]"):
        teachers.extract(teacher, Store(tmp_path, random_clips(2), ["take", "pour", "wash"]))
    with pytest.raises(teachers.TeacherError, match=r"4.*class 3: \[\] and \['cut'\]"):
        teachers.extract(teacher, Store(tmp_path, random_clips(2), [*LABELS, "cut"]))
    with pytest.raises(teachers.TeacherError, match=r"clip_frames=8, clip_size=32"):
        teachers.extract(teacher, Store(tmp_path, None))
    with pytest.raises(teachers.TeacherError, match=r"16 frames.*wants 8"):
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
        clip_spec=teachers.ClipSpec(8, 32),
        class_names=LABELS,
    )
    store = Store(tmp_path, random_clips(2))
    teachers.extract(teacher, store, progress=False)
    assert store.done("positions.feature").all()


def test_public_names():
    assert all(hasattr(teachers, name) for name in teachers.__all__)
