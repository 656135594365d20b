"""SlowFast and X3D: pathways, positions, sizes, precision."""

import math

import numpy as np
import pytest
import torch
from small_teachers import NARROW, narrow, small
from torch import nn

from egodistill import student, video_convnets, video_transformers
from egodistill.engine import runtime

# --- X3D -------------------------------------------------------------------------------------


def test_squeeze_excitation_widths():
    """A sixteenth in multiples of 8, as the published X3D has them, and never 10 % less."""
    widths = {24: 8, 54: 8, 108: 8, 216: 16, 432: 32, 864: 56}
    for channels, wanted in widths.items():
        assert video_convnets.SqueezeExcitation(channels).fc1.out_channels == wanted


def test_x3d_averages_positions():
    net = small("x3d_m", pool=1).net
    clip = torch.randn(1, 3, 4, 64, 96)
    with torch.no_grad():
        places, mean = net.positions(clip), net(clip)
    feature, logits = places
    assert logits.shape == (1, 2, 3, 3)
    assert not torch.allclose(feature[:, 0], feature[:, 1], atol=1e-3)
    for one, every in zip(mean, places, strict=True):
        torch.testing.assert_close(one, every.flatten(1, 2).mean(1))


# --- SlowFast --------------------------------------------------------------------------------


@pytest.mark.parametrize(("kernel", "frames"), [((3, 1, 1), 2), ((5, 1, 1), 2), ((7, 1, 1), 4)])
def test_gradients_of_short_clips_in_bf16(kernel, frames):
    """torch 2.13 alone gives numbers of any size here, on CPUs that have bf16."""
    torch.manual_seed(0)
    layer = video_convnets.conv((32, 8), kernel)
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


SHAPES = [  # channels, kernel, stride, frames, pixels: numbers of any size with torch 2.13 on CPUs with AMX
    ((128, 128), (1, 3, 3), (1, 2, 2), 4, 56),
    ((3, 64), (1, 7, 7), (1, 2, 2), 4, 112),
    ((96, 192), (1, 1, 1), (1, 1, 1), 1, 72),
    ((48, 48), (5, 1, 1), (1, 1, 1), 5, 40),
    ((48, 96), (3, 3, 3), (2, 2, 2), 3, 56),
    ((96, 48), (1, 1, 1), (2, 2, 2), 3, 40),
]


@pytest.mark.parametrize("module", [video_convnets, video_transformers])
@pytest.mark.parametrize(("channels", "kernel", "stride", "frames", "pixels"), SHAPES)
def test_gradients_in_bf16_are_those_of_fp32(module, channels, kernel, stride, frames, pixels):
    torch.manual_seed(0)
    layer = module.Conv3d(*channels, kernel, stride, tuple(size // 2 for size in kernel), bias=kernel[0] > 1)
    x = torch.randn(2, channels[0], frames, pixels, pixels, requires_grad=True)
    found = []
    for mixed in (False, True):
        with torch.autocast("cpu", torch.bfloat16, enabled=mixed):
            y = layer(x)
        weights = torch.randn(y.shape, generator=torch.Generator().manual_seed(1))
        found.append((y.float(), *torch.autograd.grad((y.float() * weights).sum(), [x, *layer.parameters()])))
    assert found[0][0].shape == found[1][0].shape
    for exact, fast in zip(*found, strict=True):
        assert float((fast - exact).norm() / exact.norm()) < 0.02
    with torch.no_grad(), torch.autocast("cpu", torch.bfloat16):
        assert layer(x).dtype == torch.bfloat16  # where nothing is learnt, nothing is slower


@pytest.mark.parametrize("module", [video_convnets, video_transformers])
def test_convolutions_in_groups_are_trained_in_fp32(module):
    """In bf16 on CPUs, their backward pass takes several times as long."""
    x = torch.randn(2, 4, 3, 5, 5)
    for kernel, groups, wanted in (((3, 3, 3), 4, torch.float32), ((1, 3, 3), 1, torch.bfloat16)):
        layer = module.Conv3d(4, 4, kernel, padding=tuple(size // 2 for size in kernel), groups=groups)
        with torch.autocast("cpu", torch.bfloat16):
            assert layer(x).dtype == wanted
            with torch.no_grad():
                assert layer(x).dtype == torch.bfloat16
        assert torch.equal(layer(x), nn.Conv3d.forward(layer, x))


@pytest.mark.parametrize("module", [video_convnets, video_transformers])
@pytest.mark.parametrize("length", [1, 2, 5, 8])
@pytest.mark.parametrize(
    ("kernel", "stride", "groups"),
    [((3, 3, 3), (1, 1, 1), 4), ((3, 3, 3), (1, 2, 2), 2), ((5, 3, 1), (2, 1, 1), 4), ((1, 3, 3), (1, 2, 1), 4)],
)
def test_grouped_convolutions_in_mixed_precision_are_those_of_torch(module, length, kernel, stride, groups):
    padding = tuple(size // 2 for size in kernel)
    layer = module.Conv3d(4, 4, kernel, stride, padding, groups=groups, bias=False).double()
    x = torch.randn(2, 4, length, 5, 6, dtype=torch.float64, requires_grad=True)
    expected = nn.functional.conv3d(x, layer.weight, None, stride, padding, 1, groups)
    weights = torch.randn_like(expected)
    wanted = torch.autograd.grad((weights * expected).sum(), [x, layer.weight])
    with torch.autocast("cpu", torch.bfloat16):
        y = layer(x)
    torch.testing.assert_close(y, expected)
    torch.testing.assert_close(torch.autograd.grad((weights * y).sum(), [x, layer.weight]), wanted)


@pytest.mark.parametrize("module", [video_convnets, video_transformers])
@pytest.mark.parametrize(("length", "stride", "expected"), [(8, 1, True), (8, 2, False), (2, 2, True), (1, 1, True)])
def test_grouped_convolutions_are_2d_where_these_are_faster(module, length, stride, expected, monkeypatch):
    called = []
    monkeypatch.setattr(module, "convolve_by_frame", lambda x, *_: called.append(x) or x)
    layer = module.Conv3d(4, 4, 3, (1, stride, stride), 1, groups=4, bias=False)
    with torch.autocast("cpu", torch.bfloat16):
        layer(torch.randn(1, 4, length, 6, 6))
    assert bool(called) == expected


@pytest.mark.parametrize(
    "make",
    [
        lambda: video_convnets.SlowFast(20, width=32, depths=(1, 1, 1, 1)),
        lambda: video_convnets.X3D(20, width=24, depth_factor=1.0),
        lambda: student.ResNet(student.Bottleneck, (1, 1, 1, 1)),
        lambda: student.ResNet(student.BasicBlock, (1, 1, 1, 1), 32),
    ],
)
def test_weights_begin_as_he_et_al_draw_them(make):
    """Normal, independent, of variance 2 / fan-out; at the end of a residual branch of a video network zeros."""
    torch.manual_seed(0)
    net, seen = make(), []
    for name, module in net.named_modules():
        if isinstance(module, (nn.Conv2d, nn.Conv3d)) and module.weight.numel() > 2000:
            values = module.weight.detach().double() / math.sqrt(2 / (len(module.weight) * module.weight[0, 0].numel()))
            values = values.reshape(len(values), -1)
            seen.append(values.flatten()[:2000])
            error = 5 / math.sqrt(values.numel())
            assert abs(values.mean()) < error and abs(values.square().mean() - 1) < 2 * error, name
            assert abs(values.pow(4).mean() - 3) < 10 * error, name
            neighbours = values[1:] * values[:-1], values[:, 1:] * values[:, :-1]
            assert all(abs(pairs.mean()) < 2 * error for pairs in neighbours), name
        if isinstance(module, nn.Linear):
            assert module.weight.std().item() == pytest.approx(0.01, rel=0.1) and not module.bias.any(), name
    between = torch.corrcoef(torch.stack(seen)).fill_diagonal_(0)
    assert len(seen) > 5 and between.abs().max() < 5 / math.sqrt(2000)


def test_the_slow_pathway_sees_a_truncated_linspace():
    assert video_convnets.SlowFast(2, **NARROW).slow_index == (0, 4, 8, 13, 17, 22, 26, 31)
    for frames, alpha in ((16, 4), (16, 2), (64, 4), (8, 8)):
        index = video_convnets.SlowFast(2, frames=frames, alpha=alpha, **NARROW).slow_index
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
    net = video_convnets.SlowFast(5, frames=16, alpha=alpha, width=16, beta=8, depths=(1, 2, 2, 1))
    feature, logits = net(torch.randn(2, 3, 16, 64, 48))
    assert (feature.shape, logits.shape) == ((2, 32 * 18), (2, 5))
    assert "s3.pathway1_res1.branch2.a.weight" in net.state_dict()
    assert "s3.pathway1_res1.branch1.weight" not in net.state_dict()


def test_large_crops_are_averaged_over_positions():
    net = narrow().net
    clip = torch.randn(1, 3, 8, 256, 224)
    with torch.no_grad():
        places, mean = net.positions(clip), net(clip)
    feature, _ = places
    assert feature.shape == (1, 2, 1, net.feature_dim)
    assert not torch.allclose(feature[:, 0], feature[:, 1], atol=1e-3)
    for one, every in zip(mean, places, strict=True):
        torch.testing.assert_close(one, (every[:, 0, 0] + every[:, 1, 0]) / 2)


@pytest.mark.parametrize(
    ("options", "words"),
    [
        ({"frames": 30}, ["alpha=4", "frames=30"]),
        ({"width": 20, "beta": 8}, ["beta=8", "width=20"]),
        ({"depths": (1, 1, 1)}, ["depths", "(1, 1, 1)"]),
        ({"slow_time_kernels": (1, 1, 2, 3)}, ["odd", "2"]),
        ({"stem_time_kernels": (5,)}, ["stem_time_kernels", "(5,)", "2 numbers"]),
        ({"stem_time_kernels": (1, 5, 7)}, ["stem_time_kernels", "(1, 5, 7)"]),
        ({"fusion_kernel": -1}, ["odd", "-1"]),
        ({"frames": 0}, ["frames=0", "at least 1"]),
        ({"alpha": 0}, ["alpha=0", "at least 1"]),
        ({"beta": 0}, ["beta=0", "at least 1"]),
    ],
)
def test_impossible_networks_are_refused(options, words):
    with pytest.raises(ValueError) as caught:
        video_convnets.SlowFast(2, **options)
    assert all(word in str(caught.value) for word in words)


@pytest.mark.parametrize("options", [{"depth_factor": math.inf}, {"bottleneck": math.inf}, {"feature_dim": 0}])
def test_an_impossible_x3d_is_refused(options):
    ((name, value),) = options.items()
    with pytest.raises(ValueError, match=f"{name}={value}.* must be positive and finite"):
        video_convnets.X3D(2, **options)


def test_mixed_precision_and_memory_format():
    torch.manual_seed(0)
    net = video_convnets.SlowFast(4, frames=16, width=16, beta=4, depths=(1, 1, 1, 1), dropout=0.0)
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
    kernels = [layer.kernel_size for layer in net.modules() if isinstance(layer, nn.Conv3d)]
    kinds = [output.dtype for output in outputs]
    assert len(outputs) == 38 and kinds.count(torch.float32) == kernels.count((5, 7, 7)) == 1
    if runtime.has_bf16_kernels():  # torch's own bf16 convolutions are contiguous
        assert all(output.is_contiguous(memory_format=torch.channels_last_3d) for output in outputs)
    nn.functional.cross_entropy(logits.float(), torch.tensor([0, 3])).backward()
    for name, parameter in net.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert torch.nn.functional.cosine_similarity(feature.float(), plain[0]).min() > 0.999


def test_it_learns():
    """Fresh weights fit eight clips that differ only in the order of their frames."""
    torch.set_num_threads(1)  # for layers this small, more threads only wait for each other
    torch.manual_seed(0)
    net = video_convnets.SlowFast(2, frames=8, dropout=0.0, **NARROW)
    forwards = torch.randn(4, 3, 8, 32, 32).cumsum(2)
    clips, labels = torch.cat([forwards, forwards.flip(2)]), torch.tensor([0] * 4 + [1] * 4)
    optimiser = torch.optim.AdamW(net.parameters(), lr=3e-3)
    for _ in range(30):
        loss = nn.functional.cross_entropy(net(clips)[1], labels)
        optimiser.zero_grad()
        loss.backward()
        optimiser.step()
    assert loss < 0.1


def test_depths_of_x3d_are_rounded_up():
    for factor, depths in ((2.2, [3, 5, 11, 7]), (5.0, [5, 10, 25, 15]), (0.5, [1, 1, 3, 2]), (1.1, [2, 3, 6, 4])):
        net = video_convnets.X3D(2, width=8, depth_factor=factor, feature_dim=8)
        assert [len(getattr(net, f"s{k}")) for k in (2, 3, 4, 5)] == depths


def test_published_models_are_those_of_their_names():
    """frames x rate at 30 Hz, the side of their crop, and what is special about each."""
    expected = {
        "slowfast_8x8_r50": (32, 224, 32 * 2 / 30, {}),
        "slowfast_4x16_r50": (32, 224, 32 * 2 / 30, {"alpha": 8, "fusion_kernel": 5}),
        "x3d_xs": (4, 160, 4 * 12 / 30, {"pool": 5}),
        "x3d_s": (13, 160, 13 * 6 / 30, {"pool": 5}),
        "x3d_m": (16, 224, 16 * 5 / 30, {"pool": 7}),
        "x3d_l": (16, 312, 16 * 5 / 30, {"pool": 10, "depth_factor": 5.0}),
    }
    found = {
        name: (
            entry["clip"]["frames"],
            entry["clip"]["size"],
            pytest.approx(entry["clip"]["seconds"]),
            entry["options"],
        )
        for name, entry in video_convnets.PUBLISHED.items()
    }
    assert found == expected
    for entry in video_convnets.PUBLISHED.values():
        assert (entry["clip"]["mean"], entry["clip"]["std"], entry["num_classes"]) == (3 * (0.45,), 3 * (0.225,), 400)


def test_the_feature_of_x3d_is_what_its_classifier_reads():
    """After the widest layer and its ReLU, written out for one position."""
    net = small("x3d_m").net
    clip = torch.randn(2, 3, 4, 32, 32)
    with torch.no_grad():
        feature, logits = net(clip)
        x = net.s5(net.s4(net.s3(net.s2(net.s1["pathway0_stem"](clip)))))
        x = torch.relu(net.head.conv_5_bn(net.head.conv_5(x))).mean((2, 3, 4))
        wanted = (x @ net.head.lin_5.weight.flatten(1).T).clamp(min=0)
        torch.testing.assert_close(feature, wanted, rtol=1e-4, atol=1e-5)
        projection = net.head.projection
        torch.testing.assert_close(logits, wanted @ projection.weight.T + projection.bias, rtol=1e-4, atol=1e-4)
    assert (feature == 0).any() and (feature > 0).any()


@pytest.mark.parametrize(("size", "side", "pooled"), [((4, 9), 7, (1, 3)), ((9, 4), 7, (3, 1)), ((7, 8), 7, (1, 2))])
def test_each_side_of_a_map_that_is_smaller_than_the_pool_is_averaged(size, side, pooled):
    x = torch.randn(2, 3, 4, *size)
    found = video_convnets.average_pool(x, side)
    assert found.shape == (2, 3, *pooled)
    height, width = (min(side, own) for own in size)
    for i in range(pooled[0]):
        for k in range(pooled[1]):
            expected = x[..., i : i + height, k : k + width].mean((2, 3, 4))
            torch.testing.assert_close(found[:, :, i, k], expected)
