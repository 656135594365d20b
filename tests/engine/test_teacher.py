"""The class Teacher: pixels, sizes, errors, frozen layers, and other people's models as teachers."""

import copy
import math
from dataclasses import replace

import model_files
import numpy as np
import pytest
import torch
from small_teachers import LABELS, NARROW, SMALL, Positions, narrow, random_clips, small
from torch import nn
from torchvision.models.video import r3d_18, swin3d_t

from egodistill import EgoDistillError, Output, teachers
from egodistill.commands.loading import load_teacher
from egodistill.engine import batches
from egodistill.engine.teacher import fingerprint
from egodistill.recordings.spec import ClipSpec

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


def test_an_array_is_no_clip():
    with pytest.raises(TypeError, match=r"clip must be a torch.Tensor; got numpy.ndarray: give torch.from_numpy"):
        recorder()(np.zeros((1, 2, 3, 4, 4), np.uint8))


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
    for bad in ({"mean": (123.675, 116.28, 103.53)}, {"std": (58.4, 57.1, 57.4)}):  # of pixels that are not divided
        with pytest.raises(teachers.TeacherError, match="divide it by 255"):
            teachers.Pixels(**bad)
    with pytest.raises(teachers.TeacherError, match=r"mean is 0\.5; it must be three"):
        teachers.Pixels(mean=0.5)
    for spec, words in (
        (16, "clip_spec must be a ClipSpec; got 16"),
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
    teacher.save(tmp_path / "teacher.safetensors")
    copy = teachers.Teacher.load(tmp_path / "teacher.safetensors")
    as_commands_load_it = load_teacher(tmp_path / "teacher.safetensors")
    with torch.no_grad():
        logits = copy(torch.from_numpy(clip)).logits
        assert torch.equal(
            as_commands_load_it(torch.from_numpy(clip)).logits, logits
        )  # one memory format: the same bits
    torch.testing.assert_close(logits, found.logits, rtol=1e-5, atol=1e-5)
    for layer in copy.modules():
        assert not isinstance(layer, nn.Conv3d) or layer.weight.is_contiguous(memory_format=torch.channels_last_3d)
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
        teacher.save("r3d.safetensors")
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
    assert len({fingerprint(one) for one in (plain, changed, other)}) == 3  # with equal weights
    assert fingerprint(plain) == fingerprint(copy.deepcopy(plain))
    with pytest.raises(teachers.TeacherError, match=r"Tail: fc.weight is torch.float16; call model.float"):
        teachers.Teacher.wrap(Tail(nn.Identity()).half(), feature_layer="fc", clip_spec=spec, class_names=LABELS)


@pytest.mark.filterwarnings("ignore:`torch.jit:DeprecationWarning")
def test_wrap_refuses_programs_whose_classifier_runs_no_hooks():
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
        with pytest.raises(teachers.TeacherError, match=rf"layer '{layer}' of \w+ is TorchScript.*state_dict"):
            teachers.Teacher.wrap(module, feature_layer=layer, clip_spec=spec, class_names=LABELS)
    program = torch.export.export(plain, (torch.randn(1, 3, 2, 4, 4),))
    with pytest.raises(teachers.TeacherError, match=r"ExportedProgram is not a torch\.nn\.Module"):
        teachers.Teacher.wrap(program, feature_layer="fc", clip_spec=spec, class_names=LABELS)
    program = program.module()
    for module, layer in ((program, "fc"), (nn.Sequential(program), "0.fc")):
        with pytest.raises(teachers.TeacherError, match=rf"'{layer}' of \w+ is part of a program .*state_dict"):
            teachers.Teacher.wrap(module, feature_layer=layer, clip_spec=spec, class_names=LABELS)
    teacher = teachers.Teacher.wrap(part, feature_layer="1.fc", clip_spec=spec, class_names=LABELS)
    x = torch.randn(2, 3, 2, 4, 4)
    torch.testing.assert_close(teacher.encode(x).logits, plain(x))


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
    prints = {fingerprint(one) for one in (base, *others)}
    assert len(prints) == 9 and fingerprint(narrow(name="other")) == fingerprint(base)


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
    path = tmp_path / "t.safetensors"
    small("x3d_m").save(path)
    model_files.change(path, lambda record, weights: record["arguments"][part].update({name: value}))
    with pytest.raises(EgoDistillError, match=r"t\.safetensors: its arguments do not build"):
        teachers.Teacher.load(path)
