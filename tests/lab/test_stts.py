"""STTS: the released model number by number, its parts, its training through the shared loop."""

import math

import numpy as np
import pytest
import torch
import torchvision
from small_baselines import META, Store, close, cost, given, small_stts
from torch import nn
from torchvision.models.video.mvit import MSBlockConfig
from toys import QUIET

import egodistill as E
from egodistill.engine import batches
from lab import stts
from lab.stts import STTS

# --- Golden vectors: what the released code gave for weights and inputs that follow from their names


def released_stts(golden, variant, **options):
    state = golden[0]("stts_full" if variant == "full" else "stts_selected")
    model = STTS(62, weights=state, **stts.STTS_VARIANTS[variant], **options)
    model.head.load_state_dict({key: state[f"head.projection.{key}"] for key in ("weight", "bias")})
    return model.eval(), given("stts", (2, 3, 4, 224, 224), 1).transpose(1, 2)


@pytest.mark.parametrize(
    ("variant", "name"), [("T0.5-S0.7", "stts_t05_s07"), ("T0.8-S0.9", "stts_t08_s09"), ("full", "stts_full")]
)
def test_stts_equals_the_released_one(golden, variant, name):
    vectors = golden[1]("stts")
    model, frames = released_stts(golden, variant)
    with torch.no_grad():
        close(model.encode(frames).logits, vectors[f"{name}_logits"], 1e-5)
    assert list(model.selection) == ([] if variant == "full" else ["time", "space"])
    for what, (scores, index) in model.selection.items():
        close(scores, vectors[f"{name}_{what}_scores"], 1e-3)
        assert np.array_equal(index.numpy(), vectors[f"{name}_{'time' if what == 'time' else 'anchor'}_index"])


def test_stts_in_training_equals_the_released_one(golden, monkeypatch):
    draws = iter([(f"stts_train_noise{k}", (2, 500, d)) for k, d in enumerate((2, 9))])
    monkeypatch.setattr(stts, "gaussian_noise", lambda x, samples: given(*next(draws), 1))
    model, frames = released_stts(golden, "T0.5-S0.7", dropout=0.0, drop_path=0.0)
    with torch.no_grad():
        logits = model.train().encode(frames).logits
    close(logits, golden[1]("stts")["stts_t05_s07_train_logits_sigma0.1"], 1e-5)


def test_perturbed_topk_equals_the_released_one(golden):
    vectors = golden[1]("stts")
    x = given("topk_x", (3, 9), 0.3)
    low, high = x.aminmax(dim=1, keepdim=True)
    x = ((x - low) / (high - low + 1e-5)).requires_grad_()
    close(x, vectors["topk_x"], 1e-6)
    chosen = stts.perturbed_topk(x, 4, 0.1, noise=given("topk_noise", (3, 500, 9), 1))
    close(chosen, vectors["topk_indicators"], 1e-6)
    chosen.backward(given("topk_grad", (3, 4, 9), 1))
    close(x.grad, vectors["topk_grad_x"], 1e-5)


# --- Counts. Multiply-adds are those of half of torch's counter, parameters to the digit.


@pytest.mark.parametrize(
    ("options", "params", "gmacs"),
    [
        (stts.STTS_VARIANTS["T0.5-S0.7"], 36_652_000, 6.1935),
        (stts.STTS_VARIANTS["T0.8-S0.9"], 36_652_000, 6.8984),
        (stts.STTS_VARIANTS["full"], 36_350_174, 14.9771),
        ({"time_ratio": 0.5, "space_ratio": None}, 36_410_847, 7.4144),
        ({"time_ratio": None}, 36_591_327, 12.4504),
        ({"time_ratio": None, "space_ratio": 0.863}, 36_591_327, 13.9207),
    ],
)
def test_counts_of_stts(options, params, gmacs):
    with META:
        assert cost(STTS(62, weights=None, **options)) == (params, pytest.approx(gmacs, abs=5e-5))


def test_counts_of_stts_on_16_frames():
    with META:
        assert cost(STTS(400, num_frames=16, weights=None, **stts.STTS_VARIANTS["full"]))[0] == 36_610_672
        assert cost(STTS(400, num_frames=16, weights=None))[0] == 36_912_498


# --- Part by part


def test_gradient_of_two_candidates_against_the_closed_form():
    """One of two: P(first) is the normal distribution function of (x0 - x1) / (sigma sqrt 2)."""
    torch.manual_seed(0)
    sigma, x = 0.3, torch.tensor([[0.4, 0.1]], requires_grad=True)
    scale = sigma * math.sqrt(2)
    u = 0.3 / scale
    p, slope = 0.5 * (1 + math.erf(u / math.sqrt(2))), math.exp(-(u**2) / 2) / math.sqrt(2 * math.pi) / scale
    noise = torch.randn(1, 400_000, 2)
    found = {}
    for jacobian in ("diagonal", "full"):
        first = stts.perturbed_topk(x, 1, sigma, noise=noise, jacobian=jacobian)[0, 0, 0]
        assert float(first.detach()) == pytest.approx(p, abs=0.003)
        (found[jacobian],) = torch.autograd.grad(first, x)
    assert found["full"][0].tolist() == pytest.approx([slope, -slope], abs=0.02)
    assert found["diagonal"][0].tolist() == pytest.approx([slope, 0], abs=0.02)


def test_full_gradient_against_finite_differences():
    torch.manual_seed(0)
    x = torch.tensor([[0.1, 0.5, 0.3, 0.45, 0.2]], requires_grad=True)
    noise, upstream = torch.randn(1, 400_000, 5), torch.randn(1, 2, 5)

    def value(x):
        return (stts.perturbed_topk(x, 2, 0.2, noise=noise, jacobian="full") * upstream).sum()

    (gradient,) = torch.autograd.grad(value(x), x)
    step = 0.02
    with torch.no_grad():
        numeric = [float(value(x + step * e) - value(x - step * e)) / (2 * step) for e in torch.eye(5)]
    assert gradient[0].tolist() == pytest.approx(numeric, abs=0.06)
    assert max(abs(v) for v in numeric) > 0.5


def test_perturbed_topk_without_noise_is_topk():
    x = torch.tensor([[0.2, 0.9, 0.1, 0.5]], requires_grad=True)
    chosen = stts.perturbed_topk(x, 2, 0.0, samples=3)
    assert chosen.tolist() == [[[0, 1, 0, 0], [0, 0, 0, 1]]]  # in the order of the candidates
    chosen.sum().backward()
    assert x.grad.tolist() == [[0, 0, 0, 0]]
    soft = stts.perturbed_topk(x.detach(), 2, 0.3, samples=200)
    assert torch.allclose(soft.sum(2), torch.ones(1, 2)) and soft.max() < 1


def test_stts_selects_what_scores_best():
    model = small_stts(num_frames=8).eval()  # 4 temporal tokens of which 2 are kept, maps of 4 x 4, windows of 3 x 3

    class Given(nn.Module):
        def __init__(self, scores):
            super().__init__()
            self.scores = torch.tensor(scores)

        def forward(self, tokens):
            return self.scores.expand(len(tokens), -1)

    model.time_scorer = Given([0.1, 0.8, 0.2, 0.9])  # the best is the last: order is that of time
    grid = (4, 2, 2)
    x = torch.cat([torch.full((2, 1, 8), -1.0), torch.arange(16.0).view(1, 16, 1).expand(2, 16, 8)], dim=1)
    model.time_table = torch.arange(16).view(4, 4)
    kept, grid = model.select_times(x, grid)
    assert grid == (2, 2, 2) and kept[0, :, 0].tolist() == [-1, 4, 5, 6, 7, 12, 13, 14, 15]
    scores = torch.zeros(4, 4)
    scores[1, 3] = scores[3, 0] = 1.0
    scores[3, 3] = 0.5
    model.space_scorer = Given(scores.flatten().tolist())
    x = torch.cat([torch.full((2, 1, 32), -1.0), torch.arange(32.0).view(1, 32, 1).expand(2, 32, 32)], dim=1)
    kept, grid = model.select_window(x, (2, 4, 4))
    window = [4 * row + column for row in (1, 2, 3) for column in (1, 2, 3)]
    assert grid == (2, 3, 3) and kept[0, :, 0].tolist() == [-1, *window, *[16 + cell for cell in window]]
    assert model.selection["space"][1].flatten().tolist() == [3, 3, 3, 3]


def test_stts_keeps_half_of_the_features_of_a_score_to_each_token():
    torch.manual_seed(0)
    scorer = stts.Scorer(8).eval()
    tokens = torch.randn(1, 6, 8)
    hidden = scorer.in_conv(tokens)
    mixed = torch.cat([hidden[..., :4], hidden[..., 4:].mean(1, keepdim=True).expand(-1, 6, -1)], dim=2)
    assert torch.allclose(scorer(tokens), scorer.out_conv(mixed)[..., 0], atol=1e-6)


def test_scorers_learn_through_the_selection():
    model = small_stts(drop_path=0.0).train()
    model(batches.example_inputs(model, 2)[0]).logits.square().sum().backward()
    for scorer in (model.time_scorer, model.space_scorer):
        assert scorer.out_conv[4].weight.grad.abs().sum() > 0


def test_stts_takes_the_weights_of_torchvision():
    torch.manual_seed(0)
    blocks = [
        MSBlockConfig(
            num_heads=2**stage,
            input_channels=96 * 2**stage,
            output_channels=96 * 2 ** (stage + (last and stage < 3)),
            kernel_q=[3, 3, 3] if stage and first else [],
            stride_q=[1, 2, 2] if stage and first else [],
            kernel_kv=[3, 3, 3],
            stride_kv=[1, 8 >> stage, 8 >> stage],
        )
        for stage, depth in enumerate((1, 2, 11, 2))
        for first, last in [(k == 0, k == depth - 1) for k in range(depth)]
    ]  # as mvit_v1_b() has them; that function fixes 16 frames of 224 pixels
    theirs = torchvision.models.video.MViT(
        spatial_size=(64, 64),
        temporal_size=4,
        block_setting=blocks,
        residual_pool=False,
        residual_with_cls_embed=False,
        rel_pos_embed=False,
        proj_after_attn=False,
    ).eval()
    with META:
        published = torchvision.models.video.mvit_v1_b(weights=None)
    assert list(published.state_dict()) == list(theirs.state_dict())
    model = STTS(4, frame_size=64, weights=theirs.state_dict(), **stts.STTS_VARIANTS["full"]).eval()
    theirs.head = nn.Identity()
    frames = torch.randint(256, (2, 4, 3, 64, 64), dtype=torch.uint8)
    with torch.no_grad():
        wanted = theirs(((frames / 255 - 0.45) / 0.225).transpose(1, 2))
        for module in model.modules():  # After pooling torchvision has another epsilon than the released STTS.
            if isinstance(module, nn.LayerNorm) and module.eps == 1e-5 and module.normalized_shape == (96,):
                module.eps = 1e-6
        assert torch.allclose(model(frames).feature, wanted, atol=1e-5)
    more = STTS(4, num_frames=8, frame_size=96, weights=theirs.state_dict())
    own, given = more.pos_embed_temporal[0], theirs.pos_encoding.temporal_pos
    assert own.shape == (4, 96) and torch.allclose(own[1], 0.75 * given[0] + 0.25 * given[1], atol=1e-6)
    assert more.pos_embed_spatial.shape == (1, 24**2, 96)
    assert torch.allclose(more.pos_embed_spatial.mean(1)[0], theirs.pos_encoding.spatial_pos.mean(0), atol=2e-3)
    assert torch.equal(more.blocks[3].attn.pool_q.weight, theirs.blocks[3].attn.pool_q.pool.weight)


# --- Through the shared loop


@pytest.mark.parametrize("jacobian", ["diagonal", "full"])
def test_stts_learns_while_its_noise_fades(jacobian):
    store, model = Store(size=64), small_stts(jacobian=jacobian, dropout=0.0, drop_path=0.0)
    seen, told = [], model.set_progress
    model.set_progress = lambda share: (seen.append(share), told(share))
    history = E.finetune(model, store, epochs=30, batch_size=8, learning_rate=1e-3, decay_epochs=(), **QUIET)
    assert seen == pytest.approx([k / 60 for k in range(60)])
    assert model.sigma == pytest.approx(0.1 / 60)
    assert history[-1]["loss"] < 0.5 * history[0]["loss"]
    assert E.evaluate(model, store, precision="fp32", **QUIET).top1 == 1.0


def test_stts_goes_on_after_a_kill_with_the_same_noise(tmp_path):
    options = {"epochs": 3, "batch_size": 8, "checkpoint_seconds": 0.0, **QUIET}
    whole, killed, store = small_stts(), small_stts(), Store(size=64)
    E.finetune(whole, store, **options)
    store = Store(size=64)
    store.fail_at = 5  # one read for the check, then one a step
    with pytest.raises(InterruptedError):
        E.finetune(killed, store, checkpoint=tmp_path / "run.pt", **options)
    store.fail_at = None
    again = small_stts()
    E.finetune(again, store, checkpoint=tmp_path / "run.pt", **options)
    for a, b in zip(whole.state_dict().values(), again.state_dict().values(), strict=True):
        assert torch.equal(a, b)
    assert again.sigma == whole.sigma


# --- Values that are not the usual ones, and numbers by an independent computation


def test_options_of_stts_reach_its_selection(monkeypatch):
    calls, real = [], stts.perturbed_topk

    def spy(scores, k, sigma, **options):
        calls.append({"k": k, "sigma": sigma, **options})
        return real(scores, k, sigma, **options)

    monkeypatch.setattr(stts, "perturbed_topk", spy)
    model = small_stts(sigma=0.3, samples=7, jacobian="full", num_frames=8, time_ratio=0.75, space_ratio=0.3).train()
    frames = torch.randint(256, (2, 8, 3, 64, 64), dtype=torch.uint8)
    for done in (0.25, 0.5, 0.9):  # the noise is that of the progress, and not of how often it was set
        model.set_progress(done)
        model(frames)
        wanted = {"sigma": pytest.approx(0.3 * (1 - done)), "samples": 7, "jacobian": "full"}
        assert calls == [{"k": 3, **wanted}, {"k": 1, **wanted}]
        calls.clear()
    assert model.window == 2 and model.keep_times == 3


def test_positions_of_other_frames_and_sizes_are_interpolated_as_stated():
    """In time linearly between centres; in space by triangles as wide as the larger grid's step (antialias)."""
    model = small_stts(num_frames=6, frame_size=32)
    rng = np.random.default_rng(0)
    times, places = rng.normal(size=(8, 8)), rng.normal(size=(14 * 14, 8))
    state = {"pos_embed_temporal": torch.tensor(times)[None], "pos_embed_spatial": torch.tensor(places)[None]}
    found = model.fit_positions(state)
    centres = ((np.arange(3) + 0.5) * 8 / 3 - 0.5).clip(0, 7)
    linear = np.stack([np.interp(centres, np.arange(8), column) for column in times.T], 1)
    np.testing.assert_allclose(found["pos_embed_temporal"][0], linear, atol=1e-6)
    scale = 14 / 8
    distance = np.abs((np.arange(14)[None] + 0.5) - (np.arange(8)[:, None] + 0.5) * scale) / scale
    weights = np.maximum(0, 1 - distance)
    weights /= weights.sum(1, keepdims=True)
    square = np.einsum("yi,xj,ijc->yxc", weights, weights, places.reshape(14, 14, 8))
    np.testing.assert_allclose(found["pos_embed_spatial"][0], square.reshape(64, 8), atol=1e-6)
