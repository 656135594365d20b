"""AdaFuse, STTS and ListenToLook: the released models number by number, their training through the shared loop."""

import copy
import json
import math
import zlib

import gradients
import numpy as np
import pytest
import torch
import torchvision
import toys
from torch import nn
from torch.nn import functional as F
from torch.utils.flop_counter import FlopCounterMode
from torchvision.models.video.mvit import MSBlockConfig

import egodistill as E
from egodistill import inference, student
from egodistill.engine import batches
from egodistill.experiments import adafuse, baselines, listen_to_look, stts

AdaFuse, STTS, ListenToLook, BaselineError = (
    adafuse.AdaFuse,
    stts.STTS,
    listen_to_look.ListenToLook,
    baselines.BaselineError,
)
META = torch.device("meta")
CLASSES = ["close", "open", "put", "take"]
QUIET = {"progress": False, "device": "cpu"}
# As small as they get.
FUSE = {"width": 8, "depths": (1, 1, 1, 1), "frame_size": 32, "policy_hidden": 16, "weights": None}
TOKENS = {"width": 8, "depths": (1, 1, 2, 1), "frame_size": 64, "weights": None, "samples": 50}
LISTEN = {"width": 8, "depths": (1, 1, 1, 1), "frame_size": 32, "hidden": 32, "audio_steps": 21, "weights": None}


def small_adafuse(seed=0, **options):
    torch.manual_seed(seed)
    return AdaFuse(4, **FUSE | options)


def small_stts(seed=0, **options):
    torch.manual_seed(seed)
    return STTS(4, **TOKENS | options)


def listener(seed=0, **options):
    torch.manual_seed(seed)
    return ListenToLook(4, **LISTEN | {"feature_dim": 12} | options)


SMALL = [small_adafuse, small_stts, listener]


class Store(toys.Arrays):
    """A store in memory. The class is told by the colour of the second half of the frames, and by the pitch."""

    def __init__(self, clips=16, size=32, seed=0):
        rng = np.random.default_rng(seed)
        self.class_names, self.path, self.reads, self.fail_at = CLASSES, None, 0, None
        self.labels, self.segments = np.arange(clips) % 4, np.arange(clips)
        colours = np.array([[220, 30, 30], [30, 220, 30], [30, 30, 220], [200, 200, 200]])[self.labels]
        frames = rng.integers(-30, 30, (clips, 4, 3, size, size)) + 60
        frames[:, 2:] += colours[:, None, :, None, None] - 60
        tones = np.zeros((clips, 21, 40))
        tones[np.arange(clips), :, 9 * self.labels + 5] = 5.0  # the band of a pitch of its own
        self.arrays = {
            "frames_4": frames.clip(0, 255).astype(np.uint8),
            # Says nothing: each picture is there with every class.
            "frames_1": rng.integers(0, 256, (clips // 4, 1, 3, size, size), dtype=np.uint8).repeat(4, axis=0),
            "audio": (tones + rng.normal(0, 0.1, tones.shape)).astype(np.float32),
            "t.feature": rng.normal(size=(4, 12)).astype(np.float32)[self.labels],
            "t.logits": 8 * np.eye(4, dtype=np.float32)[self.labels],
        }

    def read(self, name, index):
        self.reads += 1
        if self.fail_at is not None and self.reads > self.fail_at:
            raise InterruptedError("killed")
        return super().read(name, index)


# --- Golden vectors: what the released code gave for weights and inputs that follow from their names


def draw(name):
    return np.random.default_rng(zlib.crc32(name.encode()))


def given(name, shape, scale):
    return torch.tensor((scale * draw(f"input:{name}").standard_normal(shape)).astype(np.float32))


@pytest.fixture(scope="module")
def golden(sample_data):
    """A function: (part of a released model) -> its weights, and one: file name -> its vectors."""
    folder = sample_data.parent / "reference" / "baselines"
    if not (folder / "manifest.json").is_file():
        pytest.skip(f"needs the golden vectors of the released code in {folder}")
    manifest = json.loads((folder / "manifest.json").read_text())["models"]

    def weights(model):
        state = {}
        for key, (shape, kind) in manifest[model].items():
            if kind.startswith("alias:"):
                continue
            if kind == "zero":
                state[key] = torch.tensor(0)
                continue
            normal = draw(key).standard_normal(shape)
            value = {
                "plain": lambda n=normal: 0.02 * n,
                "norm": lambda n=normal: 1 + 0.02 * n,
                "var": lambda k=key, s=shape: 1 + 0.1 * draw(k).random(s),
            }[kind]()
            state[key] = torch.tensor(np.asarray(value, np.float32))
        for key, (_, kind) in manifest[model].items():
            if kind.startswith("alias:"):
                state[key] = state[kind.removeprefix("alias:")]
        return state

    return weights, lambda name: np.load(folder / f"{name}.npz")


def close(ours, wanted, tolerance):
    assert tuple(ours.shape) == wanted.shape
    np.testing.assert_allclose(ours.detach().numpy(), wanted, rtol=0, atol=tolerance)


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


def always(action):
    """A `decide` that does the same to every channel."""

    def decide(policy, x, count):
        channels = policy.fc1.out_features // 3
        return F.one_hot(torch.full((len(x) // count, count, channels), action), 3).float()

    return decide


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


def test_listen_to_look_equals_the_released_one(golden):
    vectors, weights = golden[1]("listen_to_look_and_imu"), golden[0]("listen_to_look")
    layers = {"0": "conv1", "1": "bn1", "4": "layer1", "5": "layer2", "6": "layer3", "7": "layer4"}
    parts = {"net_image": "image", "net_audio": "audio.resnet"}
    others = {
        "net_audio.freq_conv1x1": "audio.frequency",
        "net_imageAudio.imageAudio_fc1": "fusion.0",
        "net_imageAudio.imageAudio_fc2": "fusion.2",
        "net_classifier.classifier": "classifier",
    }
    state = {}
    for key, value in weights.items():
        if ".feature_extraction." in key:
            part, rest = key.split(".feature_extraction.")
            number, rest = rest.split(".", 1)
            state[f"{parts[part]}.{layers[number]}.{rest}"] = value
        elif key != "net_audio.conv1.weight":  # the stem again, under its second name
            name, kind = key.rsplit(".", 1)
            state[f"{others[name]}.{kind}"] = value
    model = ListenToLook(62, weights=None).eval()
    model.load_state_dict(state)
    image, sound = given("l2l_image", (2, 3, 224, 224), 8), given("l2l_audio", (2, 1, 201, 40), 40)
    with torch.no_grad():
        close(model.image(image), vectors["l2l_image_feature"], 1e-5)
        close(model.audio(sound[:, 0]), vectors["l2l_audio_feature"], 1e-6)
        feature, logits = model.encode(image[:, None], sound[:, 0])
    close(feature, vectors["l2l_fused"], 1e-6)
    close(logits, vectors["l2l_logits"], 1e-6)


def test_frames_of_listen_to_look_go_through_a_gru(golden):
    model = ListenToLook(62, num_frames=4, weights=None).eval()
    model.gru.load_state_dict(golden[0]("frame_gru"))
    with torch.no_grad():
        last = model.aggregate(given("gru_frames", (2, 4, 512), 1))
    close(last, golden[1]("listen_to_look_and_imu")["gru_last"], 1e-6)


# --- Counts. Multiply-adds are those of half of torch's counter, parameters to the digit.


def cost(model):
    return sum(p.numel() for p in model.parameters()), inference.count_macs(model, META) / 1e9


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


@pytest.mark.parametrize("instructions", ["AVX2", "ALL"])
@pytest.mark.parametrize(("network", "width"), [("BasicBlock", 4), ("Bottleneck", 1)])
def test_gradients_of_narrow_shortcuts(network, width, instructions):
    """The image networks of ListenToLook and AdaFuse; see the test of this name for the student."""
    gradients.check(network, width, instructions)


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


def test_counts_of_listen_to_look():
    with META:
        models = {c: ListenToLook(c, gru=True, weights=None) for c in (62, 94, 97)}
        plain = ListenToLook(62, weights=None)
        wide = ListenToLook(62, gru=True, feature_dim=768, weights=None)
        params = {c: cost(model)[0] for c, model in models.items()}
        assert params == {62: 25_528_898, 94: 25_545_314, 97: 25_546_853}
        assert cost(plain)[0] == 23_952_962 and cost(wide)[0] == 25_807_170
        with FlopCounterMode(display=False) as counter:
            models[62].eval().encode(torch.zeros(1, 1, 3, 224, 224), torch.zeros(1, 201, 40))
    assert counter.get_total_flops() / 2e9 == pytest.approx(3.0070, abs=5e-5)
    assert inference.count_macs(models[62], META) == counter.get_total_flops() / 2


# --- AdaFuse, part by part


def test_gumbel_draws_follow_the_probabilities():
    torch.manual_seed(0)
    p = torch.tensor([0.2, 0.5, 0.3])
    many = p.log().expand(60_000, 3)
    drawn = adafuse.straight_through_gumbel(many, adafuse.gumbel_noise(many), 0.67)
    assert torch.allclose(drawn.mean(0), p, atol=0.01)
    assert set(drawn.unique().tolist()) == {0.0, 1.0} and torch.all(drawn.sum(1) == 1)
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


def test_resnet_takes_the_weights_of_torchvision(tmp_path):
    torch.manual_seed(0)
    theirs = torchvision.models.resnet50(weights=None).eval()
    torch.save(theirs.state_dict(), tmp_path / "resnet50.pth")
    model = AdaFuse(4, frame_size=64, weights=tmp_path / "resnet50.pth").eval()
    model.decide = always(adafuse.KEEP)
    theirs.fc = nn.Identity()
    frames = torch.randint(256, (2, 4, 3, 64, 64), dtype=torch.uint8)
    mean, std = (torch.tensor(v).view(3, 1, 1) for v in baselines.IMAGENET)
    with torch.no_grad():
        ours = model(frames).feature
        wanted = theirs(((frames / 255 - mean) / std).flatten(0, 1)).unflatten(0, (2, 4)).mean(1)
    assert torch.allclose(ours, wanted, rtol=1e-4, atol=1e-5)
    theirs = torchvision.models.resnet18(weights=None)
    listener = ListenToLook(4, weights=theirs.state_dict())
    assert torch.equal(listener.image.layer4[1].conv2.weight, theirs.layer4[1].conv2.weight)
    assert torch.equal(listener.audio.resnet.layer1[0].conv1.weight, theirs.layer1[0].conv1.weight)
    assert listener.audio.resnet.conv1.weight.shape == (64, 1, 7, 7)


# --- STTS, part by part


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


# --- ListenToLook, part by part


def test_listener_has_a_gru_for_several_frames():
    assert listener().gru is None and listener(gru=True).gru is not None
    model = listener(num_frames=3).eval()
    frames, audio = batches.example_inputs(model, 2)
    with torch.no_grad():
        assert not torch.allclose(model(frames, audio).feature, model(frames.flip(1), audio).feature, atol=1e-7)


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


def test_listener_learns_from_the_teacher_what_only_sound_tells():
    store, model = Store(clips=32), listener()
    options = {"epochs": 60, "batch_size": 8, "learning_rate": 1e-2, "schedule": "cosine", **QUIET}
    history = E.distill(model, store, teacher="t", **options)
    assert history[-1]["l1"] < 0.7 * history[0]["l1"] and history[-1]["kd"] < 0.5 * history[0]["kd"]
    assert E.evaluate(model, store, **QUIET).top1 == 1.0
    store.arrays["audio"][:] = 0
    assert E.evaluate(model, store, **QUIET).top1 == 0.25


def test_listener_asks_for_what_it_lacks():
    store = Store()
    del store.arrays["audio"]
    with pytest.raises(E.EgoDistillError, match=r"no array 'audio'.*audio=True"):
        E.distill(listener(), store, teacher="t", epochs=1, **QUIET)


def test_models_without_a_loss_of_their_own_train_as_before():
    class Plain(nn.Module):
        inputs, num_frames, frame_size = ("frames",), 4, 32

        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(12, 4)

        def forward(self, frames):
            feature = frames.float().mean((3, 4)).flatten(1) / 255
            return E.Output(feature, self.layer(feature))

    torch.manual_seed(0)
    model, store = Plain(), Store()
    history = E.finetune(model, store, epochs=1, batch_size=16, **QUIET)
    assert set(history[0]) == {"loss", "top1", "learning_rate", "clips_per_second", "loader_share"}
    torch.manual_seed(0)
    frames, labels = torch.from_numpy(store.arrays["frames_4"]), torch.from_numpy(store.labels)
    loss = F.cross_entropy(Plain()(frames).logits, labels).item()
    assert history[0]["loss"] == pytest.approx(loss, abs=1e-6)


@pytest.mark.parametrize("build", SMALL)
def test_measure_and_bf16(build):
    model = build().eval()
    measured = E.measure(model, batch_size=2, repeats=1, device="cpu")
    assert measured.params == sum(p.numel() for p in model.parameters()) and measured.gmacs > 0
    inputs = batches.example_inputs(model, 2)
    with torch.no_grad():
        exact = model(*inputs)
        with torch.autocast("cpu", torch.bfloat16):
            feature, logits = model(*inputs)
    assert feature.shape == exact.feature.shape == (2, model.feature_dim) and logits.shape == (2, 4)
    assert torch.isfinite(logits).all()


# --- Files and errors


@pytest.mark.parametrize("build", [*SMALL, lambda: small_adafuse(gates="all", temporal_shift=True)])
def test_a_file_gives_back_the_model(build, tmp_path):
    model = build()
    for layer in model.modules():
        if isinstance(layer, nn.BatchNorm2d):
            nn.init.uniform_(layer.running_mean)
    model.class_names = CLASSES
    model.eval().save(tmp_path / "deep" / "model.pt")
    again = baselines.Baseline.load(tmp_path / "deep" / "model.pt")
    assert type(again) is type(model) and not again.training and again.class_names == CLASSES
    assert again.arguments == model.arguments and [p.name for p in (tmp_path / "deep").iterdir()] == ["model.pt"]
    inputs = batches.example_inputs(model, 2)
    with torch.no_grad():
        assert torch.equal(model(*inputs).logits, again(*inputs).logits)
    assert len(list(again.parameters())) == len(list(model.parameters()))


def test_files_that_do_not_fit(tmp_path):
    path = tmp_path / "model.pt"
    with pytest.raises(E.EgoDistillError, match=r"model\.pt: no such file"):
        AdaFuse.load(path)
    small_adafuse().save(path)
    with pytest.raises(E.EgoDistillError, match=r"contains a model of the class AdaFuse, not STTS"):
        STTS.load(path)
    content = torch.load(path, weights_only=True)
    torch.save(content | {"arguments": content["arguments"] | {"colour": 3}}, path)
    with pytest.raises(E.EgoDistillError, match=r"model\.pt: its arguments.*colour"):
        AdaFuse.load(path)
    weights = dict(content["weights"])
    weights["extra"] = weights.pop("classifier.bias")
    torch.save(content | {"weights": weights}, path)
    with pytest.raises(E.EgoDistillError, match=r"model\.pt.*1 missing \(classifier\.bias\); 1 unexpected \(extra\)"):
        AdaFuse.load(path)
    torch.save({"format": "something else"}, path)
    with pytest.raises(E.EgoDistillError, match="is not an 'egodistill model 1' file; its format is 'something else'"):
        baselines.Baseline.load(path)
    path.write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(E.EgoDistillError, match=r"model\.pt cannot be read"):
        baselines.Baseline.load(path)
    torch.save(content | {"class": Store()}, path)  # more than tensors: code would have to run
    with pytest.raises(E.EgoDistillError, match=r"model\.pt cannot be read"):
        baselines.Baseline.load(path)
    torch.save([1], path)
    with pytest.raises(E.EgoDistillError, match="contains a list"):
        baselines.Baseline.load(path)


def test_pretrained_weights_that_do_not_fit(tmp_path, monkeypatch):
    with pytest.raises(E.EgoDistillError, match=r"the given weights do not fit this ResNet: .*missing"):
        AdaFuse(4, weights={"conv1.weight": torch.zeros(64, 3, 7, 7)})
    state = torchvision.models.resnet18(weights=None).state_dict()
    with pytest.raises(E.EgoDistillError, match="of another shape"):
        ListenToLook(4, **LISTEN | {"weights": state, "depths": (2, 2, 2, 2)})
    torch.save({"model_state": state}, tmp_path / "r18.pth")
    wrapped = ListenToLook(4, weights=tmp_path / "r18.pth")
    assert torch.equal(wrapped.image.conv1.weight, state["conv1.weight"])

    class Offline:
        def get_state_dict(self, **options):
            raise OSError("no route to host")

    monkeypatch.setattr(torchvision.models, "get_weight", lambda name: Offline())
    for build in (AdaFuse, STTS, ListenToLook):
        with pytest.raises(ValueError, match=r"_V1 could not be downloaded \(no route to host\).*give a path"):
            build(4)


@pytest.mark.parametrize(
    ("build", "options", "words"),
    [
        (adafuse, {"gates": "first"}, "gates must be one of .*'last', 'all'.*'first'"),
        (adafuse, {"last_frame": "next"}, "last_frame must be one of"),
        (adafuse, {"efficiency": "none"}, "efficiency must be one of"),
        (adafuse, {"depths": (1, 1, 1)}, r"depths must be four numbers of blocks.*\(1, 1, 1\)"),
        (adafuse, {"width": 4, "temporal_shift": True}, "at least 8; got width=4"),
        (adafuse, {"num_frames": 0}, "AdaFuse: num_frames must be at least 1; got 0"),
        (adafuse, {"class_names": ["a"]}, "1 class names for num_classes=4"),
        (stts, {"time_ratio": 0.375}, "time_ratio=0.375 keeps 0 of the 2 temporal tokens of 4 frames"),
        (stts, {"time_ratio": 1.5}, "keeps 3 of the 2"),
        (stts, {"space_ratio": 0.0}, "space_ratio=0.0 results in windows of 0 x 0 on a map of 4 x 4"),
        (stts, {"space_ratio": 2.0}, "windows of 5 x 5"),
        (stts, {"frame_size": 50}, "frame_size=50 must be a multiple of 32"),
        (stts, {"depths": (1, 1, 1, 1)}, "the third at least 2"),
        (stts, {"jacobian": "half"}, "jacobian must be 'diagonal' or 'full'; got 'half'"),
        (listener, {"num_frames": 2, "gru": False}, "num_frames=2 needs the GRU"),
        (listener, {"mel_bands": 0}, "mel_bands=0 must be at least 1"),
    ],
)
def test_arguments_that_do_not_fit(build, options, words):
    with pytest.raises(BaselineError, match=words):
        build(**options)


def test_inputs_that_do_not_fit():
    frames = torch.zeros(2, 4, 3, 32, 32, dtype=torch.uint8)
    for wrong in (frames.float(), frames[:, :3], frames[0], frames.transpose(1, 2)):
        with pytest.raises(BaselineError, match=r"AdaFuse reads frames as uint8 \[batch, 4, 3, height, width\]; got "):
            small_adafuse()(wrong)
    with pytest.raises(BaselineError, match=r"built for frames of 64 pixels; got frames float32 .* 32"):
        small_stts()(frames)
    frames = frames[:, :1]
    for wrong in (torch.zeros(2, 21, 39), torch.zeros(2, 3200), torch.zeros(2, 21, 40, dtype=torch.int32)):
        with pytest.raises(BaselineError, match=r"float spectrogram \[batch, steps, 40\]; got "):
            listener()(frames, wrong)
    with pytest.raises(BaselineError, match=r"k must be from 1 to 2, .*got 3"):
        stts.perturbed_topk(torch.zeros(1, 2), 3, 0.1)
    with pytest.raises(BaselineError, match="jacobian must be 'diagonal' or 'full'"):
        stts.perturbed_topk(torch.zeros(1, 2), 1, 0.1, jacobian="x")


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


def test_listener_takes_the_maximum_over_time_and_the_last_state_over_frames():
    net = listener(num_frames=3).eval()
    sound = torch.randn(2, 40, 40)
    with torch.no_grad():
        maps = net.audio.resnet.maps(sound[:, None])  # [B, D, t, f]
        weight, bias = net.audio.frequency.weight[0, :, 0, 0], net.audio.frequency.bias
        expected = (torch.einsum("bdtf,f->bdt", maps, weight) + bias).max(2).values
        torch.testing.assert_close(net.audio(sound), expected, rtol=1e-4, atol=1e-5)
        features = torch.randn(2, 3, net.image.feature_dim)
        states, _ = net.gru(features)
        torch.testing.assert_close(net.aggregate(features), states[:, 2])
