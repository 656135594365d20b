"""MotionFormer and MViT: their attention by hand, sizes, training, memory."""

import math

import numpy as np
import pytest
import torch
from small_teachers import SMALL, SMALL_MVIT, random_clips, settle, small
from torch.nn import functional as F
from torchvision.models.video import MViT
from torchvision.models.video.mvit import MSBlockConfig

from egodistill import EgoDistillError, teachers, video_transformers


def test_attention_is_trained_in_fp32():
    """In bf16 on CPUs, its backward pass takes ten times as long. Other precisions stay as they are."""
    q, k, v = torch.randn(3, 1, 2, 5, 8).unbind()
    wanted = F.scaled_dot_product_attention(q, k, v)
    q.requires_grad_()
    with torch.autocast("cpu", torch.bfloat16):
        found = video_transformers.attend(q.bfloat16(), k.bfloat16(), v.bfloat16())
        assert found.dtype == torch.float32 and (found - wanted).abs().max() < 0.03
        assert video_transformers.attend(q.detach(), k, v).dtype == torch.bfloat16
    assert torch.equal(video_transformers.attend(q, k, v), wanted)
    assert video_transformers.attend(q.double(), k.double(), v.double()).dtype == torch.float64


# --- MotionFormer ----------------------------------------------------------------------------


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
    monkeypatch.setattr(video_transformers, "LARGE", many)
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


def test_a_block_adds_what_its_attention_and_its_mlp_say():
    torch.manual_seed(0)
    block = video_transformers.MotionFormerBlock(16, 2, 32, True, False, 0.0).eval()
    for weight in block.parameters():
        torch.nn.init.normal_(weight, std=0.3)
    x = torch.randn(2, 1 + 2 * 9, 16)
    with torch.no_grad():
        attended = x + block.attn(block.norm1(x), 2)
        torch.testing.assert_close(block(x, 2), attended + block.mlp(block.norm2(attended)))


def test_queries_of_several_frames_at_a_time():
    """Any number of frames of queries in one go gives the same; a GPU takes all."""
    attn = small("motionformer_16x4", value_step="projected").net.blocks[0].attn.double()
    q, k, v = torch.randn(3, 2, 3, 12, 8, dtype=torch.float64)  # [B, H, S, d]
    wanted = attn.trajectories(q, k, v, 4)
    k, v = (y.unflatten(2, (4, 3)).permute(2, 0, 1, 3, 4).flatten(0, 1) for y in (k, v))
    for step in (2, 4):
        parts = q.unflatten(2, (4, 3)).split(step, 2)
        found = [attn.along(part, k, v, i * step) for i, part in enumerate(parts)]
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
    assert torch.equal(net.spatial_positions((4, 4)), net.pos_embed[0, 1:])
    wide = net.spatial_positions((4, 8)).unflatten(0, (4, 8))
    assert (wide[:, 1:, 0] > wide[:, :-1, 0]).all()  # columns grow to the right
    torch.testing.assert_close(wide[..., 1].mean(1), torch.arange(4.0))  # rows stay
    with torch.no_grad():
        assert net(torch.randn(1, 3, 6, 48, 40))[0].shape == (1, 24)
    with pytest.raises(ValueError, match=r"36 x 32.*multiples of.*8"):
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


# --- MViT ------------------------------------------------------------------------------------


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
    with pytest.raises(ValueError, match=r"\[1, 3, 4, 64, 32\].*\[B, 3, 4, 32, 32\]"):
        teacher.encode(torch.randn(1, 3, 4, 64, 32))


# --- both ------------------------------------------------------------------------------------


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
    y = video_transformers.drop_path(x, 0.25, True)
    assert torch.equal(y, y[:, :1, :1].expand_as(y))
    assert y.unique().tolist() == [0.0, pytest.approx(4 / 3)]
    assert y.mean().item() == pytest.approx(1, abs=0.03)
    assert video_transformers.drop_path(x, 0.25, False) is x
    rates = [block.drop_path for block in small("mvit_b_16x4", drop_path=0.3).net.blocks]
    assert rates == pytest.approx([0.0, 0.1, 0.2, 0.3])


@pytest.mark.parametrize("rate", [1.0, 2.0, -0.5, math.nan])
def test_a_rate_that_drops_every_branch_is_refused(rate):
    """1.0 gave NaN in training; 2.0 and -0.5 scaled what they kept."""
    for name in ("motionformer_16x4", "mvit_b_16x4"):
        with pytest.raises(EgoDistillError, match=f"drop_path is {rate}; it must be from 0 to below 1"):
            small(name, drop_path=rate)


@pytest.mark.parametrize(
    ("network", "options", "words"),
    [
        ("MotionFormer", {"tubelet": 0}, "tubelet=0.*at least 1"),
        ("MotionFormer", {"patch": 0}, "patch=0.*at least 1"),
        ("MotionFormer", {"heads": 0}, "heads=0.*at least 1"),
        ("MotionFormer", {"frames": 0}, "frames=0.*at least 1"),
        ("MotionFormer", {"depth": -1}, "depth=-1 must be at least 1"),
        ("MViT", {"heads": 0}, "heads=0.*at least 1"),
        ("MViT", {"frames": 0}, "frames=0.*at least 1"),
        ("MViT", {"depths": ()}, r"depths=\(\).*at least 1"),
        ("MViT", {"kv_stride": -4}, "kv_stride=-4.*at least 1"),
    ],
)
def test_numbers_below_one_are_refused(network, options, words):
    with pytest.raises(ValueError, match=words):
        getattr(video_transformers, network)(3, **options)


def test_the_number_of_classes_may_be_one_of_numpy():
    for classes, heads in ((np.int64(3), {"head"}), (np.array([3, 4]), {"head0", "head1"})):
        net = video_transformers.MotionFormer(classes, frames=2, size=16, patch=8, width=8, depth=1, heads=1)
        assert {name for name, _ in net.named_children() if name.startswith("head")} == heads


def cubic(distance):
    """The kernel of Keys (1981) with a = -0.75, as torch uses it."""
    d = abs(distance)
    if d <= 1:
        return 1.25 * d**3 - 2.25 * d**2 + 1
    return -0.75 * (d**3 - 5 * d**2 + 8 * d - 4) if d < 2 else 0.0


def resized_by_hand(grid, height, width):
    """Bicubic interpolation between pixels' centres, one value at a time; the border repeats."""
    rows, columns, _ = grid.shape
    result = torch.zeros(height, width, grid.shape[2])
    for y in range(height):
        for x in range(width):
            v, u = (y + 0.5) * rows / height - 0.5, (x + 0.5) * columns / width - 0.5
            for i in range(math.floor(v) - 1, math.floor(v) + 3):
                for j in range(math.floor(u) - 1, math.floor(u) + 3):
                    value = grid[min(max(i, 0), rows - 1), min(max(j, 0), columns - 1)]
                    result[y, x] += cubic(v - i) * cubic(u - j) * value
    return result


@pytest.mark.parametrize(("height", "width"), [(6, 6), (3, 7), (4, 5)])
def test_positions_are_resized_by_bicubic_interpolation(height, width):
    """As in the released models of 336 pixels, whose positions are those of 224."""
    net = settle(small("motionformer_16x4").net)
    with torch.no_grad():
        found = net.spatial_positions((height, width)).unflatten(0, (height, width))
    wanted = resized_by_hand(net.pos_embed[0, 1:].detach().unflatten(0, (4, 4)), height, width)
    torch.testing.assert_close(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("depth", [1, 2, 5])
def test_the_rate_of_dropped_branches_grows_linearly_to_that_of_the_last_block(depth):
    net = video_transformers.MotionFormer(3, frames=2, size=16, patch=8, width=8, depth=depth, heads=1, drop_path=0.4)
    rates = [block.drop_path for block in net.blocks]
    assert rates == pytest.approx(torch.linspace(0, 0.4, depth).tolist())
    blocks = video_transformers.mvit_blocks(8, 1, (1, depth), kv_stride=2, pool_eps=1e-6, drop_path=0.4)
    assert [block.drop_path for block in blocks] == pytest.approx(torch.linspace(0, 0.4, 1 + depth).tolist())


def test_norms_after_pooling_have_their_own_epsilon():
    net = video_transformers.MViT(3, **SMALL_MVIT, pool_eps=1e-3)
    after = {name: module.eps for name, module in net.named_modules() if isinstance(module, torch.nn.LayerNorm)}
    pooled = {name for name in after if ".attn.norm_" in name}
    assert pooled and {after[name] for name in pooled} == {1e-3}
    assert {after[name] for name in after.keys() - pooled} == {1e-6}
    for source, eps in (("pytorchvideo", 1e-5), ("PySlowFast", 1e-6), ("torchvision", 1e-6)):
        assert video_transformers.MViT.options_from({}, source, {})["pool_eps"] == eps
    weights = small("mvit_b_16x4").net.state_dict()
    asked = teachers.load("mvit_b_16x4", weights, progress=False, **{**SMALL["mvit_b_16x4"], "pool_eps": 1e-3})
    assert asked.net.arguments["pool_eps"] == 1e-3  # no checkpoint says it, so an option is not overruled


def test_published_transformers_are_those_of_their_names():
    """frames x rate at 30 Hz; those of EPIC-KITCHENS have two heads and BGR pixels."""
    names = set(video_transformers.PUBLISHED) - {"mvit_b_16x4"}
    assert len(names) == 8
    for name in names:
        entry, epic = video_transformers.PUBLISHED[name], name.startswith("epic_")
        frames, rate = map(int, name.split("_")[-1].split("x"))
        clip = entry["clip"]
        assert (clip["frames"], clip["seconds"]) == (frames, pytest.approx(frames * rate / 30)), name
        assert (clip["size"], entry["options"]) == (336 if "_336_" in name else 224, {"size": 224})
        assert (clip["mean"], clip["std"]) == (3 * (0.5,), 3 * (0.5,))
        assert (clip["channels"], entry["num_classes"]) == (("BGR", (97, 300)) if epic else ("RGB", 400))
    clip = video_transformers.PUBLISHED["mvit_b_16x4"]["clip"]
    assert (clip["frames"], clip["size"], clip["seconds"]) == (16, 224, pytest.approx(64 / 30))
    assert (clip["mean"], clip["std"]) == (3 * (0.45,), 3 * (0.225,))


@pytest.mark.parametrize("build", ["MotionFormer", "MViT"])
def test_transformers_start_with_small_weights_and_no_bias(build):
    torch.manual_seed(0)
    options = {"MotionFormer": {"depth": 1, "heads": 2, "width": 64}, "MViT": {"depths": (1, 1), "width": 48}}[build]
    net = getattr(video_transformers, build)(5, frames=4, size=64, **options)
    for module in net.modules():
        if isinstance(module, torch.nn.Linear):
            assert float(module.weight.detach().std()) == pytest.approx(0.02, rel=0.15) and not module.bias.any()
    positions = net.pos_embed if build == "MotionFormer" else net.pos_embed_spatial
    assert float(positions.detach().std()) == pytest.approx(0.02, rel=0.1)
