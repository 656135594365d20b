"""The published models number by number."""

import json
import math
import re
import zlib

import numpy as np
import pytest
import torch
from small_teachers import SMALL, gmacs, meta, random_clips
from torch import nn

from egodistill import teachers
from egodistill.engine import batches

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


@pytest.mark.slow("teachers at their own size, 2 GB each")
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


@pytest.mark.parametrize("name", [name for name, one in teachers.MODELS.items() if one.source != "torchvision"])
def test_every_name_builds_its_model(name):
    teacher = meta(name)
    spec = teacher.clip_spec
    frames, rate = next((int(a), int(b)) for a, b in re.findall(r"(\d+)x(\d+)", f"{name} 8x8"))
    if name.startswith("x3d"):
        frames, rate = {"xs": (4, 12), "s": (13, 6)}.get(name[4:], (16, 5))
    if name == "i3d":
        frames, rate = 32, 2
    if teacher.net.__class__.__name__ == "TorchvisionVideo":
        return  # tests/engine/test_torchvision_teachers.py has these
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
    with pytest.raises(
        teachers.TeacherError, match=r"my\.safetensors: .*teachers\.Teacher\.load\(\) reads a teacher's file"
    ):
        teachers.load("my.safetensors")
    with pytest.raises(teachers.TeacherError, match=r"no model 'x3d'; the names are m.*\. Did you mean x3d_\w+\?"):
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


def test_public_names():
    assert all(hasattr(teachers, name) for name in teachers.__all__)
