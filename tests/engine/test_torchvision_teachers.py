"""torchvision's video classifiers as teachers: outputs and clips are torchvision's, and its files are found."""

import re
from dataclasses import replace
from pathlib import Path

import pytest
import torch
from commandline import run
from small_teachers import meta, random_clips, settle
from torch import nn
from torchvision import models

from egodistill import EgoDistillError, data, teachers
from egodistill.engine import runtime
from egodistill.engine.torchvision_teachers import PUBLISHED
from egodistill.recordings.spec import ClipSpec

CACHE = Path("cache", "hub", "checkpoints")  # below TORCH_HOME=cache


def default_weights(name):
    return models.get_model_weights(name)["DEFAULT"]


def its_own(name, num_classes=5):
    """torchvision's own network with random values everywhere, and a list that gets what its last layer reads."""
    torch.manual_seed(0)
    net, read = settle(models.get_model(name, weights=None, num_classes=num_classes)).eval(), []
    last = [one for one in net.modules() if isinstance(one, (nn.Linear, nn.Conv3d))][-1]
    last.register_forward_pre_hook(lambda _, inputs: read.append(inputs[0]))
    return net, read


def close(one, other, rtol=1e-5):
    torch.testing.assert_close(one, other, rtol=0, atol=rtol * float(other.abs().max()))


SMALL = [("swin3d_t", 4, 64), ("mc3_18", 4, 32), ("r2plus1d_18", 4, 32)]
REAL = [(name, None, None) for name in PUBLISHED]


@pytest.mark.parametrize(
    ("name", "frames", "size"),
    [*SMALL, *(pytest.param(*one, marks=pytest.mark.slow("a network at its own size")) for one in REAL)],
)
def test_outputs_are_those_of_torchvisions_network(name, frames, size, tmp_path):
    """Of a file in its layout, on the clip after its own transforms; so is a saved teacher (of small clips)."""
    net, read = its_own(name)
    torch.save(net.state_dict(), tmp_path / "weights.pth")
    options = {"frames": frames, "size": size} if frames else {}
    teacher = teachers.load(name, tmp_path / "weights.pth", progress=False, **options)
    spec = teacher.clip_spec
    clip = torch.from_numpy(random_clips(2 if frames else 1, frames=spec.frames, size=spec.size))
    transforms = default_weights(name).transforms()
    transforms.resize_size = [spec.size, spec.size]  # the clip is that square already
    transforms.crop_size = [spec.size * 7 // 8] * 2
    with torch.no_grad():
        wanted, found = net(transforms(clip)), teacher(clip)
        close(found.logits, wanted)
        close(found.feature, read[0].flatten(2).mean(2) if read[0].ndim > 2 else read[0])
        assert teacher.class_names == list("01234") and str(tmp_path / "weights.pth") in teacher.origin
        if not frames:
            return
        assert (wanted[0] - wanted[1]).abs().max() > 1e-3 * wanted.abs().max()
        teacher.save(tmp_path / "teacher.safetensors")
        copy = teachers.Teacher.load(tmp_path / "teacher.safetensors")
        close(copy(clip).logits, wanted, 1e-4)  # convolutions of another memory format
    assert (copy.clip_spec, copy.pixels) == (spec, teacher.pixels)


def test_clips_pixels_and_classes_are_those_of_torchvisions_metadata():
    names = {name: published.torchvision for name, published in teachers.MODELS.items() if published.torchvision}
    assert sorted(names.values()) == sorted(models.list_models(module=models.video))
    assert [name for name in names if name not in PUBLISHED] == ["mvit_b_16x4"]
    for name in PUBLISHED:
        weights, teacher = default_weights(name), meta(name)
        transforms, spec = weights.transforms(), teacher.clip_spec
        rate, frames = map(float, re.search(r"`frame_rate=([\d.]+)`.*`clip_len=(\d+)`", weights.meta["_docs"]).groups())
        size = transforms.resize_size[0]
        assert spec == ClipSpec(frames=int(frames), size=size, crop=True, seconds=frames / rate)
        assert teacher.net.centre * size == transforms.crop_size[0]
        assert teacher.pixels == teachers.Pixels(tuple(transforms.mean), tuple(transforms.std))
        assert sum(parameter.numel() for parameter in teacher.parameters()) == weights.meta["num_params"]
        assert weights.url.endswith(f"/{teachers.MODELS[name].released[0]}")
        assert weights.meta["categories"] == teachers.kinetics_classes()
    best = models.video.Swin3D_B_Weights.KINETICS400_IMAGENET22K_V1  # not the default
    assert best.url.endswith(teachers.MODELS["swin3d_b"].released[1])


@pytest.fixture
def cached(tmp_path, monkeypatch):
    """Random weights of mc3_18 in torchvision's cache; nothing can be downloaded."""

    def offline(*_, **options):
        raise OSError("no route to host")

    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("TORCH_HOME", "cache")
    monkeypatch.setattr(models.WeightsEnum, "get_state_dict", offline)
    CACHE.mkdir(parents=True)
    net, _ = its_own("mc3_18", 400)
    torch.save(net.state_dict(), CACHE / Path(default_weights("mc3_18").url).name)
    return net


def test_the_word_torchvision_is_the_file_in_its_cache(cached):
    teacher = teachers.load("mc3_18", "torchvision", progress=False)
    torch.testing.assert_close(teacher.classifier.weight, cached.fc.weight)
    assert teacher.class_names == teachers.kinetics_classes() and "400 classes" in teacher.origin
    new = teachers.load("mc3_18", "torchvision", 3, new_head=True, progress=False)
    assert new.classifier.weight.shape == (3, 512) and not new.classifier.bias.any()
    (file,) = CACHE.iterdir()
    file.write_bytes(file.read_bytes()[:1000])
    with pytest.raises(EgoDistillError, match=re.escape(str(file))):
        teachers.load("mc3_18", "torchvision")


def test_what_has_no_weights_says_who_has_them(cached):
    with pytest.raises(teachers.TeacherError, match=r"no weights of x3d_m; .*mvit_b_16x4.*swin3d_t"):
        teachers.load("x3d_m", "torchvision")
    for name, file in (("swin3d_t", "swin3d_t-7615ae03"), ("mvit_b_16x4", "mvit_v1_b-dbeb1030")):
        with pytest.raises(teachers.TeacherError, match=rf"no route.*{file}\.pth to cache.*, or .*--pretrained FILE"):
            teachers.load(name, "torchvision")
    state = cached.state_dict()
    with pytest.raises(EgoDistillError, match=r"layout of torchvision, but X3D .* r3d_18, mc3_18"):
        teachers.load("x3d_m", state)
    with pytest.raises(EgoDistillError, match=r"mc3_18-\w+\.pth does not fit.*unexpected \(stem\.0\.weight"):
        teachers.load("swin3d_t", "cache/hub/checkpoints/mc3_18-a90a0ba3.pth")
    second = models.video.mvit_v2_s(num_classes=2).state_dict()
    with pytest.raises(EgoDistillError, match=r"but MViT weights were asked for"):
        teachers.load("mvit_b_16x4", second)


def test_impossible_clips_are_refused():
    for name, clip, words in (
        ("mvit_v2_s", {"frames": 8}, "mvit_v2_s needs frames=16 and size=256.*got frames=8"),
        ("mvit_v2_s", {"size": 224}, "got frames=16, size=224, centre=0.875"),
        ("s3d", {"frames": 4}, "5 frames or more.*frames=4"),
        ("s3d", {"size": 16}, "17 pixels or more.*size=16"),
        ("mc3_18", {"centre": 1.5}, "above 0 and at most 1.*centre=1.5"),
    ):
        with pytest.raises(teachers.TeacherError, match=words):
            meta(name, **{"num_classes": 3, **clip})
    assert meta("mvit_v2_s", 3, size=224, centre=1).clip_spec.size == 224


def test_a_small_clip_of_s3d_is_averaged_completely():
    """torchvision's own pool needs 14 frames of 224 pixels; its last layer is a convolution."""
    net, _ = its_own("s3d", 3)
    teacher = teachers.load("s3d", net.state_dict(), frames=5, size=19, progress=False)
    assert torch.equal(teacher.classifier.weight, net.classifier[1].weight.flatten(1))
    assert teacher(torch.from_numpy(random_clips(2, frames=5, size=19))).logits.shape == (2, 3)


@pytest.mark.parametrize("name", PUBLISHED)
def test_convolutions_of_torch_train_in_fp32_on_cpus(name):
    """All networks have them, so that `runtime` chooses fp32 and refuses bf16; not for the head alone."""
    assert runtime.trained_conv3d(teacher := meta(name)).startswith("net.trunk.")
    assert runtime.trained_conv3d(teacher.freeze_trunk()) is None


def test_commands_take_the_word(cached, taught, kitchen, monkeypatch, capsys):
    """prepare and extract with its classes, finetune on others; the file of that is a teacher like any other."""
    monkeypatch.setenv("TORCH_HOME", str(taught / "cache"))
    published = teachers.MODELS["mc3_18"]
    monkeypatch.setitem(teachers.MODELS, "mc3_18", replace(published, clip_spec=ClipSpec(frames=3, size=24, crop=True)))
    word = ["--architecture", "mc3_18", "--pretrained", "torchvision"]
    short = ["--epochs", 1, "--batch-size", 4, "--device", "cpu"]
    Path("films.csv").write_text(f"video,start,stop,split\n{kitchen[0].video},0,3,train\n")
    films = ["prepare", "films.csv", "--no-imu", "--workers", 1, "--frame-size", 32]
    run(capsys, *films, *word, "--out", "one")
    run(capsys, *films, *word[:2], "--out", "two")
    run(capsys, "extract", "two", *word)
    one, two = data.ClipStore("one"), data.ClipStore("two")
    assert one.class_names == two.class_names == teachers.kinetics_classes() and "clip" not in one.names
    torch.testing.assert_close(*(torch.tensor(store.read("mc3_18.logits", [0])) for store in (one, two)))
    run(capsys, "finetune", "s", *word, "--head-only", *short, "--out", "new.safetensors")
    run(capsys, "extract", "s", "--teacher-file", "new.safetensors")
    teacher = teachers.Teacher.load("new.safetensors")
    torch.testing.assert_close(teacher.net.trunk.stem[0].weight, cached.stem[0].weight)
    assert teacher.class_names != teachers.kinetics_classes() and teacher.classifier.weight.shape[1] == 512
    assert "new.safetensors" in run(
        capsys, "measure", "--teacher-file", "new.safetensors", "--batch-size", 1, "--seconds", 0.1
    )
