"""The student: counts, golden vectors, inputs, image networks, files."""

import math
import os
import zlib

import gradients
import layers
import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode
from toys import CLASSES, FAST, QUIET, Store, same, settle, small

from egodistill import DataError, EgoDistill, EgoDistillError, data, evaluate, inference, pretrain_imu, student
from egodistill.engine import batches
from egodistill.engine.spectrum import IMUSpectrum
from egodistill.recordings.recording import Recording
from egodistill.recordings.spec import require_axes, spec_of


def test_counts_of_the_paper_sized_student():
    """The closed forms of the reference: 62 classes, N = 1, D = 768."""
    with torch.device("meta"):
        model = EgoDistill(62, image_weights=None)
        assert sum(p.numel() for p in model.parameters()) == 20_579_070
        assert inference.count_macs(model, torch.device("meta")) / 1e9 == pytest.approx(1.8634, abs=5e-5)
        four = EgoDistill(62, image_weights=None, num_frames=4)
    assert sum(p.numel() for p in four.parameters()) == 20_579_070 + 1_575_936
    assert sum(p.numel() for p in student.IMUEncoder(3).parameters()) == 77_043
    assert sum(p.numel() for p in student.IMUEncoder(16).parameters()) == 78_720


@pytest.mark.parametrize("width", [3, 16])
def test_imu_encoder_agrees_with_the_released_network(sample_data, width):
    """Golden vectors of Brossard et al.'s code: catches a wrong pad, dilation, kernel, order or axis."""
    folder = sample_data.parent / "reference" / "baselines"
    if not folder.is_dir():
        pytest.skip(f"needs the golden vectors in {folder}")

    def z(name, shape):
        return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)

    encoder, state = student.IMUEncoder(width).eval(), {}
    for key, value in encoder.state_dict().items():
        shape = tuple(value.shape)
        if key.endswith("num_batches_tracked"):
            state[key] = torch.tensor(0)
            continue
        norm = key.split(".")[1] in ("2", "6", "10", "14")
        if key.endswith("running_var"):
            array = 1 + 0.1 * np.random.default_rng(zlib.crc32(key.encode())).random(shape)
        else:
            array = (1 if norm and key.endswith("weight") else 0) + 0.02 * z(key, shape)
        state[key] = torch.tensor(array.astype(np.float32))
    encoder.load_state_dict(state)
    imu = torch.tensor((40 * z("input:imu", (2, 422, 6))).astype(np.float32))
    golden = np.load(folder / "listen_to_look_and_imu.npz")[f"imu_out{width}"]
    with torch.no_grad():
        ours = encoder(imu).numpy()
    assert ours.shape == golden.shape == (2, width, 422)
    np.testing.assert_allclose(ours, golden, atol=1e-6)


def test_imu_encoder_sees_the_past_only():
    encoder = student.IMUEncoder().eval()
    imu = torch.randn(1, 422, 6)
    later = imu.clone()
    later[:, 300:] += 1.0
    with torch.no_grad():
        a, b = encoder(imu), encoder(later)
    assert torch.equal(a[:, :, :300], b[:, :, :300]) and not torch.allclose(a[:, :, 300:], b[:, :, 300:])


def test_a_student_with_the_spectrum_sees_the_net_turn_and_no_gravity(tmp_path):
    model = small(imu_encoder="spectrum").eval()
    settle(model.imu_encoder)
    assert model.imu_dim == 198 and not [*model.imu_encoder.parameters()]
    frames, imu = batches.example_inputs(model, 2)
    with torch.no_grad():
        plain = model(frames, imu)
        lifted = model(frames, imu + torch.tensor([1.0, -2.0, 9.81, 0, 0, 0]))
        turned = model(frames, imu + torch.tensor([0, 0, 0, 0, 0, 0.3]))
    torch.testing.assert_close(lifted.feature, plain.feature, atol=1e-4, rtol=1e-4)
    assert not torch.allclose(turned.feature, plain.feature, atol=1e-3)
    model.save(tmp_path / "s.safetensors")
    again = EgoDistill.load(tmp_path / "s.safetensors")
    assert type(again.imu_encoder) is IMUSpectrum and torch.equal(again(frames, imu).logits, plain.logits)
    with pytest.raises(
        ValueError, match=r"imu_encoder='spektrum' .* must be 'cnn', 'spectrum', 'filterbank', 'filterbank-unsure'"
    ):
        small(imu_encoder="spektrum")
    with pytest.raises(ValueError, match="is for a map over time"):
        small(imu_encoder="spectrum", imu_vector="mean")


def test_a_student_with_the_filterbank_is_saved_and_loaded(tmp_path):
    model = small(imu_encoder="filterbank").eval()
    settle(model.imu_encoder)
    assert model.imu_dim == 192 + 198 and not [*model.imu_encoder.parameters()] and not model.parts
    frames, imu = batches.example_inputs(model, 2)
    model.save(tmp_path / "s.safetensors")
    again = EgoDistill.load(tmp_path / "s.safetensors")
    assert torch.equal(again(frames, imu).logits, model(frames, imu).logits)
    swapped = model.encode_imu(imu[:, :, [1, 0, 2, 4, 3, 5]])  # mirrored: only what is signed or of cross products
    kept = [k for k, name in enumerate(model.imu_encoder.names) if "cross product" not in name]
    torch.testing.assert_close(swapped[:, kept], model.encode_imu(imu)[:, kept], atol=5e-3, rtol=1e-3)
    assert (swapped - model.encode_imu(imu))[:, 192:].abs().max() > 0.1
    with pytest.raises(ValueError, match="a filterbank has none"):
        small(imu_encoder="filterbank", imu_vector="mean")


def test_a_student_without_frames(tmp_path):
    """It is called with head motion alone; plain numbers are then those that hold for any mounting."""
    model = small(image_encoder=None).eval()
    (imu,) = batches.example_inputs(model, 2)
    assert model.inputs == ("imu",) and model.imu_dim == 16 * 422 and not hasattr(model, "image_encoder")
    with torch.no_grad():
        feature = model.imu_encoder(imu - imu.mean(1, keepdim=True)).flatten(1)
        wanted = model.fusion[2](model.fusion[1](model.fusion[0](feature)))  # two hidden layers
        wanted = model.fusion[4](model.fusion[3](wanted))
        found = model(imu)
        assert torch.equal(found.feature, wanted) and torch.equal(model(imu=imu).logits, found.logits)
    model.save(tmp_path / "s.safetensors")
    assert torch.equal(EgoDistill.load(tmp_path / "s.safetensors")(imu).logits, found.logits)
    bank = small(image_encoder=None, imu_encoder="filterbank").eval()
    settle(bank.imu_encoder)
    assert bank.imu_dim == 192
    turn = torch.linalg.qr(torch.randn(3, 3))[0]
    turn = turn * turn.det()
    turned = torch.cat([imu[..., :3] @ turn, imu[..., 3:] @ turn], 2)
    torch.testing.assert_close(bank(turned).logits, bank(imu).logits, atol=1e-3, rtol=1e-3)
    long = small(image_encoder=None, clip_seconds=10, imu_rate=50.0)
    assert long(torch.randn(2, 500, 6)).logits.shape == (2, 4)
    gate = small(image_encoder=None, fusion=lambda: OnlyMotion(16 * 422))
    assert gate(imu).feature.shape == (2, 12)
    frames = torch.zeros(2, 1, 3, 32, 32, dtype=torch.uint8)
    for call, words in (
        (lambda: model(frames, imu), r"reads imu alone: model\(imu\)"),
        (lambda: model(frames), r"imu must be float .*; got uint8"),
        (lambda: model(), r"needs imu: model\(imu\)"),
        (lambda: model.encode_frames(frames), "reads imu alone, and no frames"),
        (lambda: small(imu_encoder=None).encode_imu(imu), "reads frames alone, and no imu"),
        (lambda: small(imu_encoder=None)(frames, imu), r"reads frames alone: model\(frames\)"),
        (lambda: small(image_encoder=None, imu_encoder=None), "a student needs image_encoder"),
        (lambda: small(image_encoder=None, num_frames=2), "are for frames, which"),
        (lambda: small(image_encoder=None, image_weights="w.safetensors"), "are for frames, which"),
    ):
        with pytest.raises(ValueError, match=words):
            call()


class OnlyMotion(nn.Linear):
    def __init__(self, size):
        super().__init__(size, 12)

    def forward(self, image, imu):
        assert image is None
        return super().forward(imu)


def test_concat_knows_the_order_of_the_frames(tmp_path):
    model = small(num_frames=3, aggregator="concat").eval()
    features = torch.randn(2, 3, model.image_dim)
    wanted = torch.relu(features.reshape(2, -1) @ model.joint.weight.T + model.joint.bias)
    torch.testing.assert_close(model.aggregate(features), wanted, atol=1e-5, rtol=1e-4)
    assert not torch.allclose(model.aggregate(features.flip(1)), wanted, atol=1e-3)
    model.save(tmp_path / "s.safetensors")
    assert same(EgoDistill.load(tmp_path / "s.safetensors"), model)
    assert not hasattr(small(aggregator="concat"), "joint")  # of one frame
    with pytest.raises(ValueError, match="aggregator must be 'gru' or 'concat', not 'mean'"):
        small(aggregator="mean")


def test_student_ignores_constant_parts_of_the_imu_only():
    model = small().eval()
    frames, imu = batches.example_inputs(model, 2)
    with torch.no_grad():
        plain = model(frames, imu)
        shifted = model(frames, imu + torch.tensor([1.0, -2.0, 9.81, 0.1, 0.2, 0.3]))
        mirrored = model(frames, -imu)
    assert torch.allclose(plain.logits, shifted.logits, atol=1e-4)
    assert not torch.allclose(plain.logits, mirrored.logits, atol=1e-4)


def test_imu_encoder_gets_the_readings_with_their_sign_and_without_their_mean():
    class Look(nn.Module):
        def forward(self, imu):
            self.seen = imu
            return imu.transpose(1, 2)

    model = small()
    model.imu_encoder = Look()
    imu = torch.randn(2, 422, 6) + torch.arange(6.0)
    vector = model.encode_imu(imu)
    wanted = imu.double() - imu.double().mean(1, keepdim=True)
    assert torch.allclose(model.imu_encoder.seen.double(), wanted, atol=1e-5)
    assert torch.equal(vector, model.imu_encoder.seen.transpose(1, 2).flatten(1))


@pytest.mark.parametrize(
    ("name", "mean", "std"),
    [
        ("resnet18", (0.485, 0.456, 0.406), (0.229, 0.224, 0.225)),
        ("efficientnet_v2_l", (0.5, 0.5, 0.5), (0.5, 0.5, 0.5)),
    ],
)
def test_frames_are_normalised_as_imagenet_weights_want(name, mean, std, monkeypatch):
    class Look(nn.Module):
        def forward(self, x):
            self.seen = x
            return x.mean((2, 3))

    monkeypatch.setattr(student, "build_image_encoder", lambda *_: (Look(), 3))
    model = small(image_encoder=name)
    model.encode_frames(torch.tensor([124, 0, 255], dtype=torch.uint8).view(1, 1, 3, 1, 1).expand(1, 1, 3, 4, 4))
    wanted = [(v / 255 - m) / s for v, m, s in zip((124, 0, 255), mean, std, strict=True)]
    assert model.image_encoder.seen[0, :, 0, 0].tolist() == pytest.approx(wanted, abs=1e-5)


def test_several_frames_are_ordered():
    model = small(num_frames=3).eval()
    frames, imu = batches.example_inputs(model, 2)
    with torch.no_grad():
        assert not torch.allclose(model(frames, imu).feature, model(frames.flip(1), imu).feature, atol=1e-6)
        states, _ = model.gru(model.encode_frames(frames))
        assert torch.allclose(model.aggregate(model.encode_frames(frames)), states[:, -1], atol=1e-6)


def test_only_imu_switch_and_vector():
    assert small(imu_encoder=None).inputs == ("frames",)
    model = small(imu_vector="mean").eval()
    frames, _ = batches.example_inputs(model, 2)
    assert model(frames, torch.randn(2, 100, 6)).logits.shape == (2, 4)
    assert model.imu_dim == 16


@pytest.mark.parametrize(
    ("spoil", "words"),
    [
        (lambda f, i: (f.float(), i), ["uint8", "float32 [2, 1, 3, 32, 32]"]),
        (lambda f, i: (f[:, 0], i), ["[batch, 1, 3, height, width]", "[2, 3, 32, 32]"]),
        (lambda f, i: (f.permute(0, 1, 3, 4, 2), i), ["[2, 1, 32, 32, 3]"]),
        (lambda f, i: (f, i[:, :400]), ["422", "[2, 400, 6]"]),
        (lambda f, i: (f, i.transpose(1, 2)), ["[2, 6, 422]"]),
        (lambda f, i: (f, i.long()), ["float", "int64"]),
        (lambda f, i: (f,), ["this model needs imu: model(frames, imu)"]),
        (lambda f, i: (f, i, i), ["positional arguments"]),
        (lambda f, i: (f.numpy(), i), ["frames must be a torch.Tensor; got numpy.ndarray", "torch.from_numpy(frames)"]),
        (lambda f, i: (f, i.numpy()), ["imu must be a torch.Tensor; got numpy.ndarray", "torch.from_numpy(imu)"]),
    ],
)
def test_wrong_inputs_are_named(spoil, words):
    model = small()
    with pytest.raises((ValueError, TypeError)) as error:
        model(*spoil(*batches.example_inputs(model, 2)))
    assert all(word in str(error.value) for word in words)


def test_image_weights_from_a_file_are_strict(tmp_path):
    full = small(seed=3).image_encoder.state_dict() | {"fc.weight": torch.zeros(1000, 128)}  # a classifier is left out
    torch.save(full, tmp_path / "resnet.pth")
    model = small(image_weights=tmp_path / "resnet.pth")
    assert torch.equal(model.image_encoder.layer4[0].conv2.weight, full["layer4.0.conv2.weight"])
    assert same(small(image_weights=full).image_encoder, model.image_encoder)
    del full["layer1.0.conv1.weight"]
    full["extra"] = torch.zeros(1)
    full["conv1.weight"] = torch.zeros(16, 1, 7, 7)
    with pytest.raises(ValueError) as error:
        small(image_weights=full)
    assert all(
        word in str(error.value) for word in ("layer1.0.conv1.weight", "extra", "[16, 1, 7, 7] for [16, 3, 7, 7]")
    )
    with pytest.raises(ValueError, match=r"nowhere\.pth"):
        small(image_weights=tmp_path / "nowhere.pth")
    with pytest.raises(ValueError, match="or None for random weights"):
        small(image_weights="none")


def test_real_mobilenet_weights_load(sample_data):
    """Real ImageNet weights: without their classifier they load strictly, and see differences between pictures."""
    model = small(
        image_encoder="mobilenet_v2",
        image_weights=sample_data / "weights" / "mobilenet_v2_imagenet_features.pt",
    )
    assert all(torch.isfinite(p).all() for p in model.image_encoder.parameters())
    with pytest.raises(ValueError, match="not fit this ResNet"):
        small(
            image_encoder="resnet18",
            image_weights=sample_data / "weights" / "mobilenet_v2_imagenet_features.pt",
        )


def test_save_and_load(tmp_path):
    model = small(num_frames=2, class_names=CLASSES, tolerance=0.25).eval()
    model.save(tmp_path / "student.safetensors")
    again = EgoDistill.load(tmp_path / "student.safetensors")
    assert again.tolerance == 0.25 and batches.clip_spec_of(again).tolerance == 0.25
    assert same(model, again) and again.class_names == CLASSES and again.arguments == model.arguments
    assert not again.training
    with torch.no_grad():
        inputs = batches.example_inputs(model, 1)
        assert torch.equal(model(*inputs).logits, again(*inputs).logits)
    assert [p.name for p in tmp_path.iterdir()] == ["student.safetensors"]


def test_the_number_of_samples_is_that_of_the_clip_unless_it_is_given(tmp_path):
    for options, samples in (({}, 422), ({"imu_rate": 100}, 213), ({"clip_seconds": 1.0}, 198)):
        model = small(**options)
        assert model.arguments["imu_samples"] == model.imu_samples == samples
    model = small(imu_rate=100, imu_samples=422)  # as older versions wrote it
    model.save(tmp_path / "old.safetensors")
    assert EgoDistill.load(tmp_path / "old.safetensors").imu_samples == 422


def test_a_rule_of_frames_is_checked():
    with pytest.raises(ValueError, match="sampling='middle' must be one of uniform, random, first"):
        small(sampling="middle")


def test_a_tolerance_is_checked_and_older_files_have_none(tmp_path):
    for options in ({"tolerance": -1.0}, {"tolerance": 10.5}, {"tolerance": math.nan}):
        with pytest.raises(ValueError, match=r"tolerance=.* must be from 0 to 10\.0"):
            small(**options)
    with pytest.raises(ValueError, match="and 0 for key frames"):
        small(tolerance=0.25, exact=False)
    model = small()
    del model.arguments["tolerance"]  # as older versions wrote it
    model.save(tmp_path / "old.safetensors")
    assert EgoDistill.load(tmp_path / "old.safetensors").tolerance == 0.0


@pytest.mark.parametrize(("name", "depths"), [("resnet10x64", (1, 1, 1, 1)), ("resnet18", (2, 2, 2, 2))])
def test_our_resnets_are_torchvisions(name, depths, tmp_path):
    """Number by number, with its names; saved by the name."""
    torch.manual_seed(0)
    theirs = torchvision.models.ResNet(torchvision.models.resnet.BasicBlock, list(depths)).eval()
    for value in theirs.state_dict().values():
        if value.is_floating_point():
            value += 0.1 * torch.rand_like(value)
    options = {"image_encoder": name, "frame_size": 64, "imu_encoder": None}
    model = EgoDistill(4, image_weights=theirs.state_dict(), **options).eval()
    fresh = EgoDistill(4, image_weights=None, **options).eval()
    theirs.fc = nn.Identity()
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        wanted = theirs(pixels)
        torch.testing.assert_close(model.image_encoder(pixels), wanted, rtol=1e-4, atol=1e-5)
        assert (fresh.image_encoder(pixels) - wanted).abs().max() > 0.01
    model.save(tmp_path / "small.safetensors")
    loaded = EgoDistill.load(tmp_path / "small.safetensors")
    assert torch.equal(loaded.image_encoder(pixels), model.image_encoder(pixels))


@pytest.mark.parametrize("name", list(student.RESNETS))
def test_all_resnets_have_torchvisions_weights(name):
    with torch.device("meta"):
        theirs = torchvision.models.get_model(name, weights=None).state_dict()
        ours, size = student.build_image_encoder(name, None)
    wanted = {key: value.shape for key, value in theirs.items() if not key.startswith("fc.")}
    assert {key: value.shape for key, value in ours.state_dict().items()} == wanted
    assert size == theirs["fc.weight"].shape[1]


def test_unknown_image_encoders_are_refused():
    with pytest.raises(ValueError, match=r"resnet10x16.*no ImageNet weights; give .*\(--image-weights none\)"):
        EgoDistill(4, image_encoder="resnet10x16")
    with pytest.raises(ValueError, match=r"not one of the tested classification networks.*'resnet10xW'"):
        EgoDistill(4, image_encoder="resnet10x0", image_weights=None)
    with pytest.raises(ValueError, match=r"FILE\.py:NAME is for commands, in Python give the class"):
        small(image_encoder="parts.py:Encoder")


@pytest.mark.slow("processes for each set of instructions")
@pytest.mark.parametrize(("width", "instructions"), [(4, "AVX2"), (4, "ALL"), (8, "AVX512_CORE")])
def test_gradients_of_narrow_shortcuts(width, instructions):
    """oneDNN's strided 1x1 kernels are wrong below 8 channels with AVX2, below 16 with AVX-512."""
    gradients.check("student", width, instructions)


@pytest.mark.parametrize(("channels", "stride"), [(2, 2), (4, 2), (12, 3), (16, 2), (4, 1)])
def test_shortcuts(channels, stride):
    """Wherever they select pixels first, numbers, names and multiply-adds are those of a strided convolution."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(channels, 8, 1, stride, bias=False), nn.BatchNorm2d(8))
    ours = student.shortcut(channels, 8, stride)
    assert list(ours.state_dict()) == list(plain.state_dict())
    assert (len(ours) == 3) == (channels < 16 and stride > 1)
    ours.load_state_dict(plain.state_dict())
    x, found = torch.randn(2, channels, 9, 7), []
    for module in (plain, ours):
        x.grad, x.requires_grad = None, True
        with FlopCounterMode(display=False) as counter:
            output = module(x)
        output.pow(3).sum().backward()
        gradients = [parameter.grad for parameter in module.parameters()]
        found.append([output, x.grad, *gradients, torch.tensor(counter.get_total_flops())])
    torch.testing.assert_close(*found)
    with torch.no_grad():
        last = x.contiguous(memory_format=torch.channels_last)
        assert ours.to(memory_format=torch.channels_last)(last).is_contiguous(memory_format=torch.channels_last)


@pytest.mark.parametrize(
    "build",
    [
        lambda: EgoDistill(4, image_weights=None, frame_size=64),
        lambda: EgoDistill(4, image_weights=None, frame_size=64, image_encoder="shufflenet_v2_x0_5"),
    ],
)
def test_convolutions_get_channels_last(build):
    """By 25 % the faster layout on CPUs, and that of tensor cores. Where a map is 1 x 1 there is no telling."""
    layers.check_channels_last(build().eval())


@pytest.mark.slow("a training to its end")
def test_imu_encoder_learns_from_real_motion(sample_data):
    """Four activities of a smart watch, 40 recordings to learn from and 40 others; chance is 25 %."""
    with np.load(sample_data / "imu-activity" / "basicmotions.npz", allow_pickle=False) as file:
        sets = {name: (file[f"x_{name}"], file[f"y_{name}"]) for name in ("train", "test")}
    names = sorted(set(sets["train"][1].tolist()))
    windows = {}
    for name, (motion, labels) in sets.items():
        assert motion.shape == (40, 6, 100) and names == ["Badminton", "Running", "Standing", "Walking"]
        stamps = np.arange(100) / 10
        imus = [data.Imu(stamps, one[:3].T.astype(float), stamps, one[3:].T.astype(float)) for one in motion]
        x = np.stack([imu.window(0.0, rate=422 / 9.9, min_coverage=0.9, max_gap=0.2) for imu in imus])
        windows[name] = torch.from_numpy(x), torch.tensor([names.index(label) for label in labels])
    torch.manual_seed(0)
    model = nn.Sequential(student.IMUEncoder(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    x, y = windows["train"]
    for _ in range(30):
        nn.functional.cross_entropy(model(x - x.mean(1, keepdim=True)), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    x, y = windows["test"]
    with torch.no_grad():
        assert (model.eval()(x - x.mean(1, keepdim=True)).argmax(1) == y).float().mean() > 0.8


@pytest.mark.parametrize("problem", [OSError("no route to host"), RuntimeError("invalid hash value")])
def test_weights_that_cannot_be_downloaded_name_the_way_without(problem, monkeypatch):
    def offline(*_, **options):
        raise problem

    monkeypatch.setattr(torchvision.models.ResNet18_Weights, "get_state_dict", offline)
    with pytest.raises(
        ValueError,
        match=rf"{problem}.*bring .*\.pth to .*image_weights=None \(--image-weights none\) for random weights",
    ):
        EgoDistill(3)


@pytest.mark.parametrize("dtype", [torch.float64, torch.float16, torch.bfloat16])
def test_imu_samples_may_have_any_precision(dtype):
    model, frames, imu = small().eval(), torch.zeros(2, 1, 3, 32, 32, dtype=torch.uint8), torch.ones(2, 422, 6)
    assert torch.equal(model(frames, imu.to(dtype)).logits, model(frames, imu).logits)


def test_frames_and_imu_are_of_the_same_clips():
    with pytest.raises(ValueError, match="2 clips of frames and 3 of IMU samples"):
        small()(torch.zeros(2, 1, 3, 32, 32, dtype=torch.uint8), torch.zeros(3, 422, 6))


def test_weights_of_another_precision_are_refused_where_they_do_not_run():
    with pytest.raises(ValueError, match=r"weights of EgoDistill are torch.float16 .*model.float\(\) first"):
        evaluate(small().half(), Store(), precision="bf16", **QUIET)
    assert evaluate(small().double(), Store(), precision="fp32", **QUIET).clips == 32
    with pytest.raises(ValueError, match="'meta' cannot be used: it holds shapes, not values"):
        evaluate(small(), Store(), device="meta", progress=False)


def test_pretraining_needs_a_student_in_steps():
    class Own(torch.nn.Module):
        inputs = ("frames", "imu")

    with pytest.raises(ValueError, match=r"Own has no image_encoder, image_dim.*train another model with distill"):
        pretrain_imu(Own(), Store(), teacher="t", **FAST)


def test_a_clip_has_a_bounded_size():
    """The size of frames is in no tensor, so a forged file could ask for any."""
    options = {"image_weights": None, "image_encoder": "resnet10x4"}
    with pytest.raises(ValueError, match=r"num_frames=64 .* of frame_size=4096 pixels are too large"):
        EgoDistill(4, num_frames=64, frame_size=4096, **options)
    with pytest.raises(ValueError, match=r"frame_size must be .* at least 1 and at most 131072; got 131073"):
        EgoDistill(4, frame_size=131073, **options)
    with pytest.raises(ValueError, match=r"frame_size must be .* at least 1 .*; got 0"):
        EgoDistill(4, frame_size=0, **options)


# --- Numbers by an independent computation


def test_fusion_predictor_and_gru_are_what_their_equations_say():
    model = small(num_frames=3, imu_vector="mean", fusion_layers=1, hidden=9).eval()
    frames = torch.randint(256, (2, 3, 3, 32, 32), dtype=torch.uint8)
    imu = torch.randn(2, 422, 6)
    with torch.no_grad():
        features = model.encode_frames(frames)
        state = torch.zeros(2, 512)
        gru = dict(model.gru.named_parameters())
        for x in features.unbind(1):  # the last state, by the equations of a GRU
            ours = (x @ gru["weight_ih_l0"].T + gru["bias_ih_l0"]).chunk(3, 1)
            theirs = (state @ gru["weight_hh_l0"].T + gru["bias_hh_l0"]).chunk(3, 1)
            reset, update = (torch.sigmoid(a + b) for a, b in zip(ours[:2], theirs[:2], strict=True))
            state = (1 - update) * torch.tanh(ours[2] + reset * theirs[2]) + update * state
        torch.testing.assert_close(model.aggregate(features), state, rtol=1e-4, atol=1e-5)
        motion = model.imu_encoder(imu - imu.mean(1, keepdim=True)).sum(2) / 422
        torch.testing.assert_close(model.encode_imu(imu), motion, rtol=1e-4, atol=1e-5)
        first, last = model.fusion[0], model.fusion[2]
        hidden = (torch.cat([state, motion], 1) @ first.weight.T + first.bias).clamp(min=0)
        torch.testing.assert_close(model(frames, imu).feature, hidden @ last.weight.T + last.bias, rtol=1e-4, atol=1e-4)
        one, other = torch.randn(2, 4, 5)
        predictor = student.IMUPredictor(5, 7, hidden=None)
        (layer,) = predictor.layers
        expected = one @ layer.weight[:, :5].T + other @ layer.weight[:, 5:].T + layer.bias
        torch.testing.assert_close(predictor(one, other), expected)


@pytest.mark.parametrize("layers", [0, 1, 3])
def test_the_fusion_network_is_as_deep_as_asked_for(layers):
    fusion = small(fusion_layers=layers, hidden=9).fusion
    assert [type(part).__name__ for part in fusion] == layers * ["Linear", "ReLU"] + ["Linear"]
    assert [part.out_features for part in fusion[::2]] == layers * [9] + [12]


def test_dropout_of_the_imu_encoder_is_what_its_code_has():
    rates = [part.p for part in small().imu_encoder.modules() if isinstance(part, nn.Dropout)]
    assert rates == 4 * [0.1]
    assert {part.p for part in student.IMUEncoder(dropout=0.3).modules() if isinstance(part, nn.Dropout)} == {0.3}


@pytest.mark.parametrize("layers", [1001, 10**9, -1, 1.5])
def test_a_fusion_network_has_a_bounded_depth(layers):
    with pytest.raises(ValueError, match=r"fusion_layers=\S+ must be a whole number, at most 1000"):
        EgoDistill(4, image_weights=None, image_encoder="resnet10x4", fusion_layers=layers)


# --- Parts of one's own


class Spectrum(nn.Module):
    """An IMU encoder: the mean size of each channel, and a layer."""

    def __init__(self, width=3):
        super().__init__()
        self.layer = nn.Linear(6, width)

    def forward(self, imu):
        return self.layer(imu.abs().mean(1))


class Map(Spectrum):
    def forward(self, imu):
        return self.layer(imu).transpose(1, 2)[:, :, ::2]


class Pixels(nn.Module):
    def __init__(self):
        super().__init__()
        self.norm = nn.BatchNorm2d(3)

    def forward(self, pixels):
        return self.norm(pixels).mean((2, 3)).repeat(1, 3)


class Gate(nn.Module):
    def __init__(self, image_dim=9, imu_dim=3, feature_dim=12):
        super().__init__()
        self.image, self.imu = nn.Linear(image_dim, feature_dim), nn.Linear(imu_dim, feature_dim)

    def forward(self, image, imu):
        return self.image(image) * (1.0 if imu is None else self.imu(imu).sigmoid())


OWN = {"image_encoder": Pixels, "imu_encoder": Spectrum, "fusion": Gate}


def own(**options):
    torch.manual_seed(0)
    return EgoDistill(4, **{"feature_dim": 12, "frame_size": 32} | OWN | options).eval()


def test_parts_of_ones_own_are_the_student_s_networks():
    model, gate = own(), Gate()
    frames, imu = batches.example_inputs(model, 3)
    assert (model.image_dim, model.imu_dim) == (9, 3) and all(type(getattr(model, k)) is v for k, v in OWN.items())
    pixels = (
        (frames[:, 0] / 255 - torch.tensor(student.IMAGENET_MEAN)[:, None, None]).permute(0, 2, 3, 1)
    ) / torch.tensor(student.IMAGENET_STD)
    image = (pixels / (1 + 1e-5) ** 0.5).mean((1, 2)).repeat(1, 3)
    motion = model.imu_encoder.layer((imu - imu.mean(1, keepdim=True)).abs().mean(1))
    wanted = model.fusion.image(image) * model.fusion.imu(motion).sigmoid()
    torch.testing.assert_close(model(frames, imu).feature, wanted, atol=1e-5, rtol=1e-4)
    assert own(fusion=gate).fusion is gate and own(imu_encoder=lambda: Spectrum(3)).imu_dim == 3
    assert own(num_frames=2, fusion=lambda: Gate(512)).fusion.image.in_features == 512
    assert own(imu_encoder=None)(frames).feature.shape == (3, 12)


def test_a_map_over_time_is_flattened_or_averaged():
    flat, mean = (own(imu_encoder=Map, imu_vector=how, fusion=None) for how in ("flatten", "mean"))
    imu = torch.randn(2, 422, 6)
    maps = flat.imu_encoder(imu - imu.mean(1, keepdim=True))
    assert torch.equal(flat.encode_imu(imu), maps.flatten(1)) and flat.imu_dim == 3 * 211
    torch.testing.assert_close(mean.encode_imu(imu), maps.mean(2))
    assert mean.imu_dim == 3 and own(imu_vector="mean").imu_dim == 3


def test_building_a_student_changes_nothing_in_its_parts():
    part = Pixels()
    part.norm.eval()
    before = {name: value.clone() for name, value in part.state_dict().items()}
    EgoDistill(4, **OWN | {"image_encoder": part}, feature_dim=12, frame_size=32)
    assert part.training and not part.norm.training
    assert all(torch.equal(value, before[name]) for name, value in part.state_dict().items())


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"imu_encoder": lambda: nn.Linear(6, 2), "imu_vector": "mean"}, None),
        (
            {"imu_encoder": lambda: nn.Linear(7, 2)},
            r"imu_encoder=Linear fails for float32 \[2, 422, 6\] \(RuntimeError",
        ),
        (
            {"imu_encoder": nn.Flatten, "image_encoder": nn.Identity},
            r"image_encoder=Identity must return float \[2, d\] for ",
        ),
        (
            {"fusion": lambda: Gate(feature_dim=11)},
            r"fusion=Gate must return float \[2, 12\] for .*; it returned float32 \[2, 11\]",
        ),
        ({"fusion": lambda: Gate(8)}, r"fusion=Gate fails for float32 \[2, 9\], float32 \[2, 3\]"),
        (
            {"fusion": lambda size: Gate(size)},
            r"cannot be built without arguments \(missing a required .*a function without arguments",
        ),
        ({"fusion": "parts.py"}, r"^'parts\.py' is no network: .*FILE\.py:NAME"),
        ({"imu_encoder": lambda: 3}, "is no network: it gives a int"),
    ],
)
def test_parts_that_do_not_fit_are_refused_when_the_student_is_built(options, words):
    if words is None:
        assert own(**options, fusion=None).imu_dim == 422  # a map over time: [2, 422, 2]
        return
    with pytest.raises(ValueError, match=words):
        own(**options)


def test_files_name_the_parts_of_ones_own_and_load_wants_them(tmp_path):
    model, path = own(), tmp_path / "student.safetensors"
    model.save(path)
    again = EgoDistill.load(path, **OWN)
    assert same(model, again) and again.arguments == model.arguments
    clips = batches.example_inputs(model, 2)
    assert torch.equal(again(*clips).logits, model(*clips).logits)
    lacking = {name: part for name, part in OWN.items() if name != "fusion"}
    with pytest.raises(EgoDistillError, match=r"its fusion is \S+:Gate, .*pass it: load\(\.\.\., fusion=Gate\)"):
        EgoDistill.load(path, **lacking)
    with pytest.raises(EgoDistillError, match=r"its imu_encoder is \S+:Spectrum, not Map;"):
        EgoDistill.load(path, **OWN | {"imu_encoder": Map})
    with pytest.raises(EgoDistillError, match="does not fit this EgoDistill"):
        EgoDistill.load(path, **OWN | {"imu_encoder": Spectrum(4), "fusion": Gate(9, 4)})
    small().save(path)
    with pytest.raises(EgoDistillError, match=r"load\(\) returns the model on the CPU; move it"):
        EgoDistill.load(path, device="cpu")
    with pytest.raises(ValueError, match=r"is a model of this library.* model\.image_encoder\.state_dict\("):
        small(image_weights=path)
    with pytest.raises(EgoDistillError, match="its fusion is of this library; leave out yours"):
        EgoDistill.load(path, fusion=Gate)
    model = small(imu_encoder=nn.Sequential(nn.Flatten(), nn.Linear(6 * 422, 3)))
    model.save(path)
    with pytest.raises(
        EgoDistillError, match=r"imu_encoder=network\), or give --custom FILE\.py:NAME with the function"
    ):
        EgoDistill.load(path)
    replaced = small(hidden=32)
    replaced.imu_encoder = Map()
    replaced.save(path)
    with pytest.raises(EgoDistillError, match=r"its imu_encoder is \S+:Map"):
        EgoDistill.load(path)


def test_a_student_of_ones_own_class_is_read_by_that_class(tmp_path):
    class Calm(EgoDistill):
        def fuse(self, image, imu):
            feature, logits = super().fuse(image, imu)
            return student.Output(feature, logits / 2)

    torch.manual_seed(0)
    model = Calm(4, feature_dim=12, image_encoder="resnet10x4", image_weights=None, frame_size=32, hidden=8).eval()
    model.save(tmp_path / "calm.safetensors")
    with pytest.raises(EgoDistillError, match=r"its class is \S+Calm, .*call Calm\.load\(\)"):
        EgoDistill.load(tmp_path / "calm.safetensors")
    clips = batches.example_inputs(model, 2)
    assert torch.equal(Calm.load(tmp_path / "calm.safetensors")(*clips).logits, model(*clips).logits)


class Scaled(EgoDistill):
    """A student with an argument of its own, which it forgets to keep."""

    def __init__(self, *given, scale=1.0, **named):
        super().__init__(*given, **named)
        self.scale = scale


class Kept(Scaled):
    def __init__(self, *given, scale=1.0, **named):
        super().__init__(*given, scale=scale, **named)
        self.arguments["scale"] = scale


def test_an_argument_of_ones_own_is_in_the_file_or_nothing_is_written(tmp_path):
    options = {"feature_dim": 8, "image_encoder": "resnet10x4", "image_weights": None, "frame_size": 32, "hidden": 8}
    with pytest.raises(EgoDistillError, match=r".* 'scale' of Scaled: .*self\.arguments\['scale'\] = scale"):
        Scaled(3, scale=2.0, **options).save(tmp_path / "s.safetensors")
    assert not (tmp_path / "s.safetensors").exists()
    Kept(3, scale=2.0, **options).save(tmp_path / "s.safetensors")
    assert Kept.load(tmp_path / "s.safetensors").scale == 2.0


def test_lazy_layers_of_a_part_are_read_again(tmp_path):
    options = {"feature_dim": 8, "image_encoder": "resnet10x4", "image_weights": None, "frame_size": 32, "hidden": 8}

    def lazy():
        return torch.nn.Sequential(torch.nn.Flatten(), torch.nn.LazyLinear(5))

    model = EgoDistill(3, imu_encoder=lazy, **options)
    model.save(tmp_path / "s.safetensors")
    again = EgoDistill.load(tmp_path / "s.safetensors", imu_encoder=lazy)
    assert torch.equal(again.imu_encoder[1].weight, model.imu_encoder[1].weight)


@pytest.mark.parametrize("given", [True, False, 1])
def test_a_number_is_no_file_of_weights(given):
    """`open()` takes it for a file that is open already, such as standard output, and would close that."""
    with pytest.raises(ValueError, match=f"must be 'imagenet', .*; got {given}"):
        EgoDistill(4, image_weights=given)
    with pytest.raises(TypeError, match="PathLike"):
        EgoDistill.load(given)
    assert os.fstat(1)


def test_a_filterbank_without_frames_reads_any_axes(tmp_path):
    """With frames it has signed numbers, whose axes must be those of the training."""
    alone = EgoDistill(3, image_encoder=None, imu_encoder="filterbank", imu_axes="glasses")
    both = small(imu_encoder="filterbank", imu_axes="glasses")
    assert (alone.imu_axes, both.imu_axes) == ("any", "glasses")
    require_axes("walk.csv", "gopro", spec_of(alone))
    with pytest.raises(DataError, match="are 'gopro', those of the clips 'glasses'"):
        require_axes("walk.csv", "gopro", spec_of(both))
    alone.save(tmp_path / "alone.safetensors")
    assert EgoDistill.load(tmp_path / "alone.safetensors").imu_axes == "any"
    with pytest.raises(DataError, match='"any" is what a student reads'):
        Recording("walk.mp4", imu_axes="any")


@pytest.mark.parametrize("num_frames", [1, 3])
def test_a_student_of_optional_inputs(num_frames, tmp_path):
    model = small(optional_inputs=True, num_frames=num_frames).eval()
    torch.nn.init.normal_(model.no_frames)
    torch.nn.init.normal_(model.no_imu)
    frames, imu = batches.example_inputs(model, 2)
    with torch.no_grad():
        image, motion = model.aggregate(model.encode_frames(frames)), model.encode_imu(imu)
        wanted = {
            "imu": model.classifier(model.fusion(image, model.no_imu.repeat(2, 1))),
            "frames": model.classifier(model.fusion(model.no_frames.repeat(2, 1), motion)),
        }
        assert torch.equal(model(frames, None).logits, wanted["imu"])
        assert torch.equal(model(frames).logits, wanted["imu"])
        assert torch.equal(model(None, imu).logits, wanted["frames"])
        for name, given, other in (("imu", frames, imu), ("frames", imu, frames)):
            view = model.without(name)
            assert torch.equal(view(given).logits, wanted[name]) and model.inputs == ("frames", "imu")
            assert not hasattr(view, "image_encoder" if name == "frames" else "imu_encoder")
            assert batches.clip_spec_of(view) != batches.clip_spec_of(model)
            with pytest.raises(ValueError, match=f"this model reads {view.inputs[0]} alone"):
                view(given, other) if name == "imu" else view(other, given)
            with pytest.raises(EgoDistillError, match="train and save the one that it is a copy of"):
                view.save(tmp_path / "view.safetensors")
            with pytest.raises(ValueError, match="give the one that it is a copy of"):
                view.with_classes(["a", "b"])
            with pytest.raises(ValueError, match=f"reads {view.inputs[0]}, and cannot do without"):
                view.without(view.inputs[0])
    with pytest.raises(ValueError, match="this model needs frames"):
        model()
    model.save(tmp_path / "s.safetensors")
    again = EgoDistill.load(tmp_path / "s.safetensors")
    assert torch.equal(again(None, imu).logits, wanted["frames"])
    other = again.with_classes(["a", "b"])
    assert torch.equal(other.no_imu, model.no_imu)


def test_inputs_that_are_not_optional():
    plain = small()
    with pytest.raises(
        ValueError, match=r"this model needs frames and imu; one that was built with optional_inputs=True"
    ):
        plain.without("imu")
    for options in ({"imu_encoder": None}, {"image_encoder": None}):
        with pytest.raises(ValueError, match=r"optional_inputs .* is for a student of frames and head motion"):
            small(optional_inputs=True, **options)
    assert "no_frames" not in plain.state_dict() and plain.arguments["optional_inputs"] is False
