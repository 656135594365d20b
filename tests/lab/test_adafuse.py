"""AdaFuse: the released model number by number, its parts, its training through the shared loop."""

import copy

import numpy as np
import pytest
import torch
from small_baselines import META, Store, always, close, cost, draw, given, small_adafuse
from torch import nn
from torch.nn import functional as F
from toys import QUIET

import egodistill as E
from egodistill import student
from egodistill.engine import batches
from lab import adafuse
from lab.adafuse import AdaFuse
from lab.baselines import BaselineError

# --- Golden vectors: what the released code gave for weights and inputs that follow from their names


def released_adafuse(golden, gates, **options):
    model, state = AdaFuse(62, gates=gates, weights=None, **options), {}
    first = 13 if gates == "last" else 0
    blocks = [f"layer{stage + 1}.{k}" for stage, depth in enumerate((3, 4, 6, 3)) for k in range(depth)]
    for key, value in golden[0](f"adafuse_{gates}").items():
        if ".gate_fc0s." in key or ".gate_fc1s." in key:
            continue  # the same tensors again
        key = key.replace("base_model.", "backbone.").replace("downsample0", "downsample.0")
        key = key.replace("downsample1", "downsample.1").replace("new_fc", "classifier")
        if ".policy_net.gate_" in key:
            block, name = key.removeprefix("backbone.").split(".policy_net.gate_")
            key = f"policies.{blocks.index(block) - first}.{name}"
        state[key] = value
    model.load_state_dict(state)
    return model.eval()


@pytest.mark.parametrize("gates", ["last", "all"])
def test_adafuse_that_keeps_all_equals_the_released_one(golden, gates):
    vectors = golden[1]("adafuse")
    model = released_adafuse(golden, gates)
    model.decide = always(adafuse.KEEP)
    frame_logits = []
    model.classifier.register_forward_hook(lambda layer, inputs, output: frame_logits.append(output))
    with torch.no_grad():
        logits = model.encode(given(f"adafuse_{gates}", (2, 12, 64, 64), 8).unflatten(1, (4, 3))).logits
    close(logits, vectors[f"adafuse_{gates}_keep_logits"], 1e-5)
    close(frame_logits[0], vectors[f"adafuse_{gates}_keep_frame_logits"], 1e-5)
    assert [x / 4 for x in model.gflops()] == pytest.approx(vectors[f"adafuse_{gates}_keep_gflops_upb_real_base"])


@pytest.mark.parametrize("gates", ["last", "all"])
def test_adafuse_that_draws_equals_the_released_one(golden, gates, monkeypatch):
    vectors, seen, log_probabilities = golden[1]("adafuse"), [], []

    def noise(like):
        u = draw(f"gumbel:{gates}-0:{len(seen)}").random(tuple(like.shape)).clip(1e-6, 1 - 1e-6)
        seen.append(like)
        return torch.tensor((-np.log(-np.log(u))).astype(np.float32))

    monkeypatch.setattr(adafuse, "gumbel_noise", noise)
    model = released_adafuse(golden, gates, sample_at_evaluation=True)
    for policy in model.policies:
        policy.register_forward_hook(lambda layer, inputs, output: log_probabilities.append(output))
    frame_logits = []
    model.classifier.register_forward_hook(lambda layer, inputs, output: frame_logits.append(output))
    with torch.no_grad():
        output = model.encode(given(f"adafuse_{gates}", (2, 12, 64, 64), 8).unflatten(1, (4, 3)))
    first = 13 if gates == "last" else 0
    assert len(seen) == len(model.decisions) == 16 - first
    name = f"adafuse_{gates}_gumbel"
    for k, decisions in enumerate(model.decisions):
        assert np.array_equal(decisions.numpy(), vectors[f"{name}_decision_{first + k}"])
        if f"{name}_logprob_{first + k}" in vectors:
            close(log_probabilities[k][:, :64], vectors[f"{name}_logprob_{first + k}"], 1e-5)
    close(output.logits, vectors[f"{name}_logits"], 1e-5)
    close(frame_logits[0], vectors[f"{name}_frame_logits"], 1e-5)
    assert [x / 4 for x in model.gflops()] == pytest.approx(vectors[f"{name}_gflops_upb_real_base"], abs=1e-5)
    loss = F.cross_entropy(output.logits, torch.tensor([3, 17]))
    efficiency = model.extra_loss(output, {})["efficiency"]
    assert [float(x.mean()) for x in (loss, efficiency, loss + efficiency)] == pytest.approx(
        vectors[f"{name}_ce_eff_total"], abs=1e-5
    )


# --- Counts. Multiply-adds are those of half of torch's counter, parameters to the digit.


def test_counts_of_adafuse():
    with META:
        last = {c: AdaFuse(c, weights=None) for c in (62, 94, 97, 174)}
        everywhere = {c: AdaFuse(c, gates="all", weights=None) for c in (62, 94, 97, 174)}
        shifted = AdaFuse(62, temporal_shift=True, weights=None)
    wanted = {62: 38_853_246, 94: 38_918_814, 97: 38_924_961, 174: 39_082_734}
    assert {c: cost(model)[0] for c, model in last.items()} == wanted
    wanted = {62: 37_457_150, 94: 37_522_718, 97: 37_528_865, 174: 37_686_638}
    assert {c: cost(model)[0] for c, model in everywhere.items()} == wanted
    assert cost(last[62])[1] == 16.409870336 and cost(everywhere[97])[1] == 16.473595904
    assert cost(shifted) == cost(last[62])
    # By the authors' rule, a frame.
    assert last[62].frame_macs == 4_147_038_208 and everywhere[62].frame_macs == 4_162_970_112
    assert {second for _, second in everywhere[62].block_macs} == {115_605_504}
    assert [first for first, _ in everywhere[62].block_macs] == [
        {0: 12_845_056, 3: 102_760_448, 7: 102_760_448, 13: 102_760_448}.get(k, 51_380_224) for k in range(16)
    ]


@pytest.mark.parametrize(
    ("action", "upb", "real"),
    [
        (adafuse.SKIP, 15.200886784, 14.3788023),
        (adafuse.REUSE, 16.588152832, 16.382631302),
        (adafuse.KEEP, 16.588152832, 16.588152832),
    ],
)
def test_gflops_of_one_action_everywhere(action, upb, real):
    """Skipping everything gated gives the published 15.20."""
    model = AdaFuse(62, weights=None).eval()
    model.decide = always(action)
    with torch.no_grad():
        model.encode(torch.zeros(1, 4, 3, 32, 32))
    assert model.gflops() == pytest.approx((upb, real, 16.588152832), abs=2e-6)


# --- Part by part


def test_gumbel_draws_follow_the_probabilities():
    torch.manual_seed(0)
    p = torch.tensor([0.2, 0.5, 0.3])
    many = p.log().expand(60_000, 3)
    drawn = adafuse.straight_through_gumbel(many, adafuse.gumbel_noise(many), 0.67)
    assert torch.allclose(drawn.mean(0), p, atol=0.01)
    assert set(drawn.unique().tolist()) == {0.0, 1.0} and torch.all(drawn.sum(1) == 1)
    choices = adafuse.gumbel_noise(torch.zeros(100, 200))  # of 100 clips, each drawn for itself
    assert (torch.corrcoef(choices) - torch.eye(100)).abs().max() < 0.5
    assert adafuse.straight_through_gumbel(p.log(), None, 0.67).tolist() == [0, 1, 0]


def test_gradient_of_a_draw_is_that_of_the_soft_choice():
    torch.manual_seed(1)
    scores = torch.randn(5, 3, requires_grad=True)
    noise, upstream = adafuse.gumbel_noise(scores), torch.randn(5, 3)
    (ours,) = torch.autograd.grad((adafuse.straight_through_gumbel(scores, noise, 0.5) * upstream).sum(), scores)
    (soft,) = torch.autograd.grad((((scores + noise) / 0.5).softmax(1) * upstream).sum(), scores)
    assert torch.allclose(ours, soft, atol=1e-7) and ours.abs().max() > 0.01


def test_noise_in_training_and_at_evaluation_on_request():
    frames = torch.randint(256, (2, 4, 3, 32, 32), dtype=torch.uint8)

    def runs(model):
        found = []
        for _ in range(2):
            with torch.no_grad():
                model(frames)
            found.append(torch.cat([d.flatten() for d in model.decisions]))
        return found

    a, b = runs(small_adafuse().eval())
    assert torch.equal(a, b)
    for model in (small_adafuse().train(), small_adafuse(sample_at_evaluation=True).eval()):
        a, b = runs(model)
        assert not torch.equal(a, b) and set(a.tolist()) == {adafuse.SKIP, adafuse.REUSE, adafuse.KEEP}


def test_policy_sees_the_frame_before_and_then_this_one():
    model, seen = small_adafuse().eval(), []
    model.policies[0].register_forward_hook(lambda layer, inputs, output: seen.append(inputs[0]))
    x = torch.randn(6, 128, 2, 2)
    model.decide(model.policies[0], x, 3)
    both, pooled = seen[0].view(2, 3, 256), x.mean((2, 3)).view(2, 3, 128)
    assert torch.allclose(both[:, :, 128:], pooled)
    assert torch.allclose(both[:, 1:, :128], pooled[:, :-1]) and not both[:, 0, :128].any()


def test_channels_are_kept_reused_or_skipped():
    model = small_adafuse()
    y = torch.arange(1.0, 13.0).view(4, 3, 1, 1).requires_grad_()  # four frames, three channels
    actions = torch.tensor([[1, 2, 0], [1, 0, 2], [1, 1, 1], [2, 1, 0]])  # [frame, channel]
    merged = model.merge(y, F.one_hot(actions, 3).float()[None])
    # Reused is what the frame before computed, also where it was skipped there; the first has none.
    assert merged.flatten().tolist() == [0, 2, 0, 1, 0, 6, 4, 5, 6, 10, 8, 0]
    merged.sum().backward()
    assert y.grad.flatten().tolist() == [1, 1, 0, 1, 1, 2, 0, 1, 0, 1, 0, 0]
    y.grad = None
    small_adafuse(history_gradient=False).merge(y, F.one_hot(actions, 3).float()[None]).sum().backward()
    assert y.grad.flatten().tolist() == [0, 1, 0, 0, 0, 1, 0, 0, 0, 1, 0, 0]


@pytest.mark.parametrize("last_frame", ["released", "corrected"])
def test_real_gflops_by_hand(last_frame):
    model = small_adafuse(last_frame=last_frame)
    torch.manual_seed(3)
    actions = torch.randint(3, (2, 4, 5))
    model.record_decisions([F.one_hot(actions, 3).float()])
    ((first, second),) = model.block_macs
    unread = skipped = 0
    for clip in actions.tolist():
        for t in range(4):
            for channel in range(5):
                skipped += clip[t][channel] == adafuse.SKIP
                if t < 3:
                    unread += clip[t][channel] != adafuse.KEEP and clip[t + 1][channel] != adafuse.REUSE
                else:
                    unread += clip[2 if last_frame == "released" else 3][channel] != adafuse.KEEP
    upb, real, dense = model.gflops()
    assert dense == 4 * model.frame_macs / 1e9
    assert dense - upb == pytest.approx(4 * skipped / 40 * second / 1e9, rel=1e-4)
    assert dense - real == pytest.approx(4 * (unread * first + skipped * second) / 40 / 1e9, rel=1e-4)


def test_temporal_shift_by_hand():
    x = torch.arange(1.0, 25.0).view(3, 8, 1, 1)  # three frames, eight channels
    shifted = adafuse.shift(x, 3).view(3, 8)
    wanted = x.view(3, 8).clone()
    wanted[:, 0] = torch.tensor([9, 17, 0])
    wanted[:, 1] = torch.tensor([0, 2, 10])
    assert torch.equal(shifted, wanted)


def test_temporal_shift_leaves_the_shortcut_alone():
    block, x, inside = adafuse.GatedBottleneck(32, 8, 1, None).eval(), torch.rand(2, 32, 4, 4), torch.rand(2, 32, 4, 4)
    nn.init.zeros_(block.bn3.weight)  # only the shortcut is left
    assert torch.equal(block(x, inside), x)
    block = adafuse.GatedBottleneck(16, 8, 1, student.shortcut(16, 32, 1)).eval()
    nn.init.zeros_(block.bn3.weight)
    x, inside = x[:, :16], inside[:, :16]
    assert torch.equal(block(x, inside), F.relu(block.downsample(inside)))  # one that projects is shifted, as released


def test_frames_mix_only_through_gates_and_shift():
    frames = torch.randint(256, (1, 4, 3, 32, 32), dtype=torch.uint8)
    other = frames.clone()
    other[:, 3] = 0

    def of_frame_2(model, frames):
        maps = []
        handle = model.backbone.blocks[-1].register_forward_hook(lambda layer, inputs, output: maps.append(output))
        with torch.no_grad():
            model.eval()(frames)
        handle.remove()
        return maps[0][2]

    model = small_adafuse()
    assert torch.allclose(of_frame_2(model, frames), of_frame_2(model, other), atol=1e-6)  # the past only
    model = small_adafuse(temporal_shift=True)
    assert not torch.allclose(of_frame_2(model, frames), of_frame_2(model, other), atol=1e-4)


def test_policies_of_the_all_configuration_share_their_weights():
    with META:
        model = AdaFuse(4, gates="all", weights=None)
    assert len(model.policies) == 16 and len({policy.fc0 for policy in model.policies}) == 8
    assert model.policies[1].fc0 is model.policies[2].fc0 and model.policies[1].bn is not model.policies[2].bn
    assert [policy.fc0.out_features for policy in model.policies] == [3072] * 3 + [1536] * 4 + [768] * 6 + [384] * 3


# --- Through the shared loop


def test_adafuse_learns_and_reports_its_efficiency():
    store, model = Store(), small_adafuse(dropout=0.0)
    history = E.finetune(model, store, epochs=12, batch_size=8, learning_rate=3e-3, decay_epochs=(), **QUIET)
    assert history[-1]["loss"] - history[-1]["efficiency"] < 0.3 * (history[0]["loss"] - history[0]["efficiency"])
    assert 0 < history[-1]["efficiency"] <= 0.125 * model.frame_macs / 1e9
    assert E.evaluate(model, store, **QUIET).top1 == 1.0
    assert model.gflops().upb < model.gflops().dense
    copy.deepcopy(model)  # nothing of the training's graph is left


@pytest.mark.parametrize("efficiency", ["upb", "real"])
def test_efficiency_loss_presses_the_count_down(efficiency):
    store, model = Store(), small_adafuse(efficiency=efficiency, efficiency_weight=1e4)
    history = E.finetune(model, store, epochs=16, batch_size=8, learning_rate=1e-2, decay_epochs=(), **QUIET)
    floor = model.frame_macs - sum(b + (a if efficiency == "real" else 0) for a, b in model.block_macs)
    above = [row["efficiency"] / 1e4 * 1e9 - floor for row in (history[0], history[-1])]
    assert above[1] < 0.3 * above[0]


def test_costs_are_asked_for_in_order():
    model = small_adafuse().train()
    with pytest.raises(BaselineError, match="run the model on one first"):
        model.gflops()
    with pytest.raises(BaselineError, match="once after a forward pass"):
        model.extra_loss(None, {})
    output = model(*batches.example_inputs(model, 2))
    model.gflops()
    model.extra_loss(output, {})
    with pytest.raises(BaselineError, match="has taken the cost"):
        model.gflops()


# --- Values that are not the usual ones, and numbers by an independent computation


@pytest.mark.parametrize("gates", ["last", "all"])
def test_options_of_adafuse_reach_its_parts(gates):
    model = small_adafuse(gates=gates, policy_hidden=24, efficiency="real", efficiency_weight=0.3, tau=0.5).train()
    channels = [block.conv1.out_channels for block in model.backbone.blocks[model.first_gate :]]
    hidden = [policy.fc0.out_features for policy in model.policies]
    assert hidden == [max(1, 24 // width) if gates == "all" else 24 for width in channels]
    model(torch.randint(256, (3, 4, 3, 32, 32), dtype=torch.uint8))
    upb, real = model.spent.detach()
    assert not torch.allclose(upb, real)
    (loss,) = model.extra_loss(None, {}).values()
    torch.testing.assert_close(loss, 0.3 * real, check_dtype=False)


@pytest.mark.parametrize("history_gradient", [True, False])
def test_the_gradient_through_reused_channels_is_an_option(history_gradient):
    model = small_adafuse(history_gradient=history_gradient)
    y = torch.randn(1 * 3, 2, 4, 4, requires_grad=True)
    action = torch.zeros(1, 3, 2, 3)
    action[..., adafuse.REUSE] = 1.0  # each frame shows the one before it
    model.merge(y, action)[2].sum().backward()
    assert (y.grad[1] != 0).all() == history_gradient and not y.grad[0].any() and not y.grad[2].any()
