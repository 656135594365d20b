"""Teachers: the published SlowFast number by number, the face of all teachers, and extract()."""

import json
import math
import pickle
import zlib
from dataclasses import replace

import numpy as np
import pytest
import torch
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.video import r3d_18

from egodistill import teachers

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


# --- the published SlowFast ------------------------------------------------------------------


def fill(key, shape):
    """The value that the golden vectors were made with: a function of a parameter's name."""
    rng = np.random.default_rng([zlib.crc32(key.encode()), 0])
    kind = key.rsplit(".", 1)[-1]
    if kind == "num_batches_tracked":
        return np.zeros(shape, np.int64)
    if kind == "running_var":
        return np.float32(0.5 + rng.random(shape))
    value = rng.standard_normal(shape)
    if kind == "weight":
        value = value / math.sqrt(math.prod(shape[1:])) if len(shape) > 1 else 1 + 0.1 * value
    else:
        value *= 0.1
    return np.float32(value)


@pytest.fixture(scope="module")
def golden(sample_data):
    """(manifest, folder, the published network with the weights of the golden vectors)."""
    folder = sample_data.parent / "reference" / "teachers"
    if not (folder / "manifest.json").is_file():
        pytest.skip(f"needs the golden vectors of the official code in {folder}")
    manifest = json.loads((folder / "manifest.json").read_text())
    probe = manifest["probe"]["s1.pathway0_stem.bn.running_var (64)"]
    np.testing.assert_allclose(fill("s1.pathway0_stem.bn.running_var", (64,))[:5], probe, rtol=1e-6)

    layout = manifest["layouts"]["slowfast_8x8_r50.pyslowfast"]["keys"]
    with torch.device("meta"):
        net = teachers.SlowFast(400)
    state = {key: torch.as_tensor(fill(key, tuple(shape))) for key, shape in layout.items()}
    net.load_state_dict(state, strict=True, assign=True)
    return manifest, folder, net.eval()


@pytest.mark.parametrize("size", [224, 256])
def test_slowfast_equals_the_official_code(golden, size):
    manifest, folder, net = golden
    case = manifest["cases"][f"slowfast_8x8_r50_{size}_pyslowfast"]
    clip = np.random.default_rng(0).standard_normal(case["clip_shape"]).astype(np.float32)
    with np.load(folder / case["file"]) as official, torch.no_grad():
        found = net.positions(torch.from_numpy(clip))
        for name, values in found._asdict().items():
            wanted = official[name]
            if size == 224:  # one position, which the file leaves out
                wanted = wanted[:, None, None]
            assert values.shape == wanted.shape
            np.testing.assert_allclose(values, wanted, rtol=case["rtol"], atol=case["atol"])


def test_size_and_cost_of_the_published_slowfast():
    with torch.device("meta"):
        net = teachers.SlowFast(400)
        clip = torch.empty(1, 3, 32, 224, 224)
    assert sum(parameter.numel() for parameter in net.parameters()) == 34_566_488
    with FlopCounterMode(display=False) as counter:
        feature, logits = net(clip)
    assert counter.get_total_flops() / 2e9 == pytest.approx(50.30858, abs=5e-6)
    assert (feature.shape, logits.shape) == ((1, 2304), (1, 400))


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

    formats = []
    for layer in net.modules():
        if isinstance(layer, nn.Conv3d):
            layer.register_forward_hook(
                lambda layer, inputs, output: formats.append(
                    output.dtype == torch.bfloat16
                    and output.is_contiguous(memory_format=torch.channels_last_3d)
                )
            )
    with torch.autocast("cpu", torch.bfloat16):
        feature, logits = net(clip)
    assert len(formats) == 38 and all(formats)
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
    teacher = teachers.Teacher(
        Recorder(), clip_spec=spec, feature_dim=3, class_names=["a", "b", "c"]
    )
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
    assert teacher.clip_spec == teachers.ClipSpec(
        32, 224, 64 / 30, (0.45,) * 3, (0.225,) * 3, "RGB"
    )
    assert (teacher.feature_dim, teacher.name, teacher.inputs) == (2304, "slowfast", ("clip",))
    assert teacher.class_names == ["0", "1", "2", "3", "4"]


def test_example_is_what_forward_takes():
    teacher = narrow()
    assert len(teacher.example(2)) == len(teacher.inputs)
    assert teacher(*teacher.example(2)).logits.shape == (2, 3)


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
        target.write_bytes(b"half")
        raise KeyboardInterrupt

    monkeypatch.setattr(torch, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        narrow(seed=2).save(path)
    assert path.read_bytes() == before
    assert list(tmp_path.iterdir()) == [path]


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


@pytest.mark.parametrize(
    "writer", [torch.save, lambda x, path: path.write_bytes(pickle.dumps(x, 2))]
)
def test_code_in_a_file_does_not_run(tmp_path, writer):
    writer({"format": "egodistill.teacher", "version": Malicious(tmp_path / "ran")}, tmp_path / "x")
    with pytest.raises(teachers.TeacherError):
        teachers.Teacher.load(tmp_path / "x")
    assert not (tmp_path / "ran").exists()


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
        teachers.Teacher.wrap(
            module, feature_layer="head", clip_spec=teachers.ClipSpec(4, 32), class_names=LABELS
        )
    with pytest.raises(teachers.TeacherError, match="3 scores for 2"):
        teachers.Teacher.wrap(
            module, feature_layer="fc", clip_spec=teachers.ClipSpec(4, 32), class_names=["a", "b"]
        )


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
    with pytest.raises(
        teachers.TeacherError, match=r"slowfast\.teacher\.json.*fingerprint.*overwrite"
    ):
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
