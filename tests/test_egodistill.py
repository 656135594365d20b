"""The method: counts, losses, stages, resuming, evaluation, prediction."""

import json
import math
import os
import platform
import signal
import subprocess
import sys
import textwrap
import threading
import time
import zlib
from pathlib import Path

import gradients
import numpy as np
import pytest
import torch
import torchvision
from torch import nn
from torch.utils.flop_counter import FlopCounterMode

import egodistill as E
from egodistill import EgoDistill, EgoDistillError, Output, baselines, data, experiments

ROOT = Path(E.__file__).parent
CLASSES = ["close", "open", "put", "take"]


class Store:
    """A store in memory. The class is told by the frame's colour (pair) and the sign of a ramp in the gyroscope."""

    def __init__(self, clips=32, size=32, seed=0, feature_dim=12):
        rng = np.random.default_rng(seed)
        self.class_names, self.path = CLASSES, None
        self.labels = np.arange(clips) % 4
        self.segments = np.arange(clips)
        colour = np.array([40, 40, 210, 210])[self.labels][:, None, None, None]
        sign = np.where(self.labels % 2, 1.0, -1.0)[:, None, None]
        frame = (colour + rng.integers(-30, 30, (clips, 3, size, size))).astype(np.uint8)
        ramp = np.zeros((clips, E.IMU_SAMPLES, 6))
        ramp[:, :, 5:] = sign * np.linspace(-1, 1, E.IMU_SAMPLES)[None, :, None]
        imu = ramp + rng.normal(0, 0.1, ramp.shape) + rng.normal(0, 3, (clips, 1, 6))  # bias and gravity
        self.arrays = {
            "frames_1": frame[:, None],
            "ends": np.stack([frame, frame[:, :, ::-1]], 1),
            "imu": imu.astype(np.float32),
            "t.feature": rng.normal(size=(4, feature_dim)).astype(np.float32)[self.labels],
            "t.logits": (8 * np.eye(4, dtype=np.float32) + rng.normal(0, 0.1, (4, 4)).astype(np.float32))[self.labels],
        }

    def __len__(self):
        return len(self.labels)

    @property
    def names(self):
        return list(self.arrays)

    def read(self, name, index):
        return self.arrays[name][index].copy()


class Named(Store):
    """Clips have ids, as in data.ClipStore."""

    @property
    def clips(self):
        return [{"id": f"clip-{k}"} for k in range(len(self))]


def small(seed=0, **arguments):
    torch.manual_seed(seed)
    options = {"feature_dim": 12, "image_weights": None, "frame_size": 32, "hidden": 32} | arguments
    return EgoDistill(4, **options)


QUIET = {"progress": False, "device": "cpu"}


def same(a, b):
    return all(torch.equal(x, y) for x, y in zip(a.state_dict().values(), b.state_dict().values(), strict=True))


# --- The student


def test_counts_of_the_paper_sized_student():
    """The closed forms of the reference: 62 classes, N = 1, D = 768."""
    with torch.device("meta"):
        model = EgoDistill(62, image_weights=None)
        assert sum(p.numel() for p in model.parameters()) == 20_579_070
        assert E.count_macs(model, torch.device("meta")) / 1e9 == pytest.approx(1.8634, abs=5e-5)
        four = EgoDistill(62, image_weights=None, num_frames=4)
    assert sum(p.numel() for p in four.parameters()) == 20_579_070 + 1_575_936
    assert sum(p.numel() for p in E.IMUEncoder(3).parameters()) == 77_043
    assert sum(p.numel() for p in E.IMUEncoder(16).parameters()) == 78_720


@pytest.mark.parametrize("width", [3, 16])
def test_imu_encoder_agrees_with_the_released_network(sample_data, width):
    """Golden vectors of Brossard et al.'s code: catches a wrong pad, dilation, kernel, order or axis."""
    folder = sample_data.parent / "reference" / "baselines"
    if not folder.is_dir():
        pytest.skip(f"needs the golden vectors in {folder}")

    def z(name, shape):
        return np.random.default_rng(zlib.crc32(name.encode())).standard_normal(shape)

    encoder, state = E.IMUEncoder(width).eval(), {}
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
    encoder = E.IMUEncoder().eval()
    imu = torch.randn(1, 422, 6)
    later = imu.clone()
    later[:, 300:] += 1.0
    with torch.no_grad():
        a, b = encoder(imu), encoder(later)
    assert torch.equal(a[:, :, :300], b[:, :, :300]) and not torch.allclose(a[:, :, 300:], b[:, :, 300:])


def test_student_ignores_constant_parts_of_the_imu_only():
    model = small().eval()
    frames, imu = model.example(2)
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
    ("name", "size"),
    [
        ("resnet18", 512),
        ("mobilenet_v2", 1280),
        ("mobilenet_v3_large", 960),
        ("regnet_y_800mf", 784),
        ("regnet_y_1_6gf", 888),
        ("efficientnet_b0", 1280),
        ("squeezenet1_0", 512),
    ],
)
def test_image_encoders_by_name(name, size):
    model = small(image_encoder=name).eval()
    assert model.image_dim == size
    feature, logits = model(*model.example(2))
    assert feature.shape == (2, 12) and logits.shape == (2, 4)


def test_frames_are_normalised_as_imagenet_weights_want():
    class Look(nn.Module):
        def forward(self, x):
            self.seen = x
            return x.mean((2, 3))

    model = small(image_encoder="resnet18")
    model.image_encoder = Look()
    model.encode_frames(torch.tensor([124, 0, 255], dtype=torch.uint8).view(1, 1, 3, 1, 1).expand(1, 1, 3, 4, 4))
    wanted = [
        (v / 255 - m) / s for v, m, s in zip((124, 0, 255), (0.485, 0.456, 0.406), (0.229, 0.224, 0.225), strict=True)
    ]
    assert model.image_encoder.seen[0, :, 0, 0].tolist() == pytest.approx(wanted, abs=1e-5)


def test_several_frames_are_ordered():
    model = small(num_frames=3).eval()
    frames, imu = model.example(2)
    with torch.no_grad():
        assert not torch.allclose(model(frames, imu).feature, model(frames.flip(1), imu).feature, atol=1e-6)
        states, _ = model.gru(model.encode_frames(frames))
        assert torch.allclose(model.aggregate(model.encode_frames(frames)), states[:, -1], atol=1e-6)


def test_only_imu_switch_and_vector():
    assert small(use_imu=False).inputs == ("frames",)
    model = small(imu_vector="mean").eval()
    frames, _ = model.example(2)
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
        (lambda f, i: (f,), ["head motion"]),
    ],
)
def test_wrong_inputs_are_named(spoil, words):
    model = small()
    with pytest.raises(EgoDistillError) as error:
        model(*spoil(*model.example(2)))
    assert all(word in str(error.value) for word in words)


def test_image_weights_from_a_file_are_strict(tmp_path):
    import torchvision

    torch.manual_seed(3)
    full = torchvision.models.resnet18().state_dict()
    assert len(full) == 122
    torch.save(full, tmp_path / "resnet18.pth")
    model = small(image_weights=tmp_path / "resnet18.pth")
    assert torch.equal(model.image_encoder[0].layer4[1].conv2.weight, full["layer4.1.conv2.weight"])
    assert same(small(image_weights=full).image_encoder, model.image_encoder)
    del full["layer1.0.conv1.weight"]
    full["extra"] = torch.zeros(1)
    full["conv1.weight"] = torch.zeros(64, 1, 7, 7)
    with pytest.raises(EgoDistillError) as error:
        small(image_weights=full)
    assert all(
        word in str(error.value) for word in ("layer1.0.conv1.weight", "extra", "[64, 1, 7, 7] for [64, 3, 7, 7]")
    )
    with pytest.raises(EgoDistillError, match=r"nowhere\.pth"):
        small(image_weights=tmp_path / "nowhere.pth")


def test_real_mobilenet_weights_load(sample_data):
    """Real ImageNet weights: without their classifier they load strictly, and see differences between pictures."""
    model = small(
        image_encoder="mobilenet_v2", image_weights=sample_data / "weights" / "mobilenet_v2_imagenet_features.pt"
    )
    assert all(torch.isfinite(p).all() for p in model.image_encoder.parameters())
    with pytest.raises(EgoDistillError, match="not fit this model"):
        small(image_encoder="resnet18", image_weights=sample_data / "weights" / "mobilenet_v2_imagenet_features.pt")


def test_save_and_load(tmp_path):
    model = small(num_frames=2, class_names=CLASSES).eval()
    model.save(tmp_path / "student.pt")
    again = EgoDistill.load(tmp_path / "student.pt")
    assert same(model, again) and again.class_names == CLASSES and again.arguments == model.arguments
    assert not again.training
    with torch.no_grad():
        inputs = model.example(1)
        assert torch.equal(model(*inputs).logits, again(*inputs).logits)
    assert [p.name for p in tmp_path.iterdir()] == ["student.pt"]


def test_bad_checkpoints_are_refused(tmp_path):
    class Evil:
        def __reduce__(self):
            return os.system, (f"touch {tmp_path / 'ran'}",)

    path = tmp_path / "student.pt"
    small().save(path)
    whole = path.read_bytes()
    path.write_bytes(whole[: len(whole) // 2])
    with pytest.raises(EgoDistillError, match=r"student\.pt"):
        EgoDistill.load(path)
    torch.save({"format": Evil()}, path)
    with pytest.raises(EgoDistillError, match=r"student\.pt"):
        EgoDistill.load(path)
    assert not (tmp_path / "ran").exists()
    torch.save({"format": "other"}, path)
    with pytest.raises(EgoDistillError, match="format is 'other'"):
        EgoDistill.load(path)
    path.write_bytes(whole)
    content = torch.load(path, weights_only=True)
    del content["weights"]["classifier.bias"]
    torch.save(content, path)
    with pytest.raises(EgoDistillError, match=r"1 missing \(classifier\.bias\)"):
        EgoDistill.load(path)


# --- Losses


def test_action_loss_is_cross_entropy():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    wanted = (math.log(1 + math.exp(-2)) + math.log(1 + math.exp(1))) / 2
    assert float(E.action_loss(logits, torch.tensor([0, 0]))) == pytest.approx(wanted)


def test_feature_loss():
    a, b = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 5.0]])
    assert float(E.feature_loss(a, b)) == pytest.approx((0 + 2 + 3 + 1) / 4)
    assert float(E.feature_loss(a, b, reduction="sum")) == pytest.approx((2 + 4) / 2)


def test_distillation_loss_is_the_divergence_from_teacher_to_student():
    student, teacher, tau = torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[0.0, 2.0, 0.0]]), 2.0
    p, q = (torch.exp(x[0] / tau) / torch.exp(x[0] / tau).sum() for x in (teacher, student))
    wanted = float((p * (p / q).log()).sum())
    assert float(E.distillation_loss(student, teacher, tau)) == pytest.approx(wanted, rel=1e-5)
    assert float(E.distillation_loss(student, teacher, tau, tau_squared=True)) == pytest.approx(4 * wanted, rel=1e-5)
    assert float(E.distillation_loss(teacher, teacher, tau)) == pytest.approx(0, abs=1e-6)
    both = E.distillation_loss(student.repeat(5, 1), teacher.repeat(5, 1), tau)
    assert float(both) == pytest.approx(wanted, rel=1e-5)  # a mean over the batch


def test_contrastive_loss_follows_equation_7():
    torch.manual_seed(0)
    predicted, actual = torch.randn(4, 8), torch.randn(4, 8)
    total = 0.0
    for i in range(4):
        sim = [
            math.exp(float(predicted[i] @ actual[j] / predicted[i].norm() / actual[j].norm()) / 0.1) for j in range(4)
        ]
        total -= math.log(sim[i] / sum(sim))
    assert float(E.contrastive_loss(predicted, actual)) == pytest.approx(total / 4, rel=1e-4)
    assert float(E.contrastive_loss(3 * predicted, 0.1 * actual)) == pytest.approx(total / 4, rel=1e-4)
    other = float(E.contrastive_loss(actual, predicted))
    symmetric = float(E.contrastive_loss(predicted, actual, symmetric=True))
    assert symmetric == pytest.approx((total / 4 + other) / 2, rel=1e-4) and other != pytest.approx(total / 4, rel=1e-3)


def test_total_of_equation_6():
    store, model = Store(16), small()
    losses = []
    for alpha, beta in ((1.0, 0.0), (0.0, 0.0), (0.0, 1.0), (0.95, 2.0)):
        twin = small()
        twin.load_state_dict(model.state_dict())
        history = E.distill(twin, store, teacher="t", alpha=alpha, beta=beta, tau=4.0, epochs=1, batch_size=16, **QUIET)
        losses.append(history[0])
    kd, gt, both, mixed = losses
    assert kd["loss"] == pytest.approx(kd["kd"]) and gt["loss"] == pytest.approx(gt["gt"])
    assert both["loss"] == pytest.approx(both["gt"] + both["l1"], rel=1e-5)
    assert mixed["loss"] == pytest.approx(0.95 * mixed["kd"] + 0.05 * mixed["gt"] + 2 * mixed["l1"], rel=1e-5)


# --- Training


FAST = {"epochs": 12, "batch_size": 8, "learning_rate": 2e-3, "decay_epochs": (9,), **QUIET}


def test_a_student_learns_from_labels_and_needs_both_inputs():
    store = Store(32)
    both, frames = small(), small(use_imu=False)
    E.finetune(both, store, **FAST)
    E.finetune(frames, store, **FAST)
    fresh = Store(32, seed=5)
    assert E.evaluate(both, fresh, **QUIET).top1 >= 0.9
    assert E.evaluate(frames, fresh, **QUIET).top1 <= 0.75  # The gyroscope alone tells the verb of a pair.


def test_a_student_learns_from_the_teacher():
    store, model = Store(32), small()
    store.labels = np.zeros_like(store.labels)  # The labels say nothing: only the teacher can teach.
    history = E.distill(model, store, teacher="t", alpha=1.0, **FAST)
    store.labels = Store(32).labels
    result = E.evaluate(model, store, teacher="t", **QUIET)
    assert result.top1 >= 0.9
    assert history[-1]["kd"] < 0.5 * history[0]["kd"]
    assert [row["learning_rate"] for row in history] == [2e-3] * 9 + [pytest.approx(2e-4)] * 3


def test_presets_are_the_papers():
    assert E.EGO4D == {"tau": 10.0, "epochs": 150, "decay_epochs": (90, 120)}
    assert E.EPIC_KITCHENS == {"tau": 1.0, "epochs": 50, "decay_epochs": (30, 40)}
    paper = E.Training()
    assert (paper.epochs, paper.batch_size, paper.learning_rate, paper.decay_epochs) == (50, 64, 1e-4, (30, 40))
    assert [paper.rate(epoch) for epoch in (0, 29.9, 30, 40)] == pytest.approx([1e-4, 1e-4, 1e-5, 1e-6])
    smooth = E.Training(epochs=10, schedule="cosine", warmup_epochs=2, learning_rate=1.0)
    assert [smooth.rate(epoch) for epoch in (0, 1, 2, 5, 10)] == pytest.approx([0, 0.4878, 0.9045, 0.5, 0], abs=1e-4)
    with pytest.raises(EgoDistillError, match=r"schedule.*'linear'"):
        E.Training(schedule="linear")


def test_pretraining_matches_head_motion_and_leaves_the_image_encoder():
    store, model = Store(32), small()
    # Each clip's motion of its own: the last frame is shifted by what the gyroscope says.
    rng = np.random.default_rng(1)
    for k in range(32):
        shift = rng.integers(-12, 13)
        store.arrays["ends"][k, 1] = np.roll(store.arrays["ends"][k, 0], shift, axis=2)
        store.arrays["imu"][k, :, 3] += shift / 12 * np.sin(np.linspace(0, 6, E.IMU_SAMPLES))
    image, classifier = (
        {k: v.clone() for k, v in part.state_dict().items()} for part in (model.image_encoder, model.classifier)
    )
    imu = model.imu_encoder.cnn[1].weight.clone()
    history = E.pretrain_imu(model, store, teacher="t", **FAST | {"epochs": 25, "batch_size": 16, "decay_epochs": ()})
    assert all(torch.equal(v, image[k]) for k, v in model.image_encoder.state_dict().items())  # batch statistics, too
    assert all(torch.equal(v, classifier[k]) for k, v in model.classifier.state_dict().items())
    assert not torch.equal(imu, model.imu_encoder.cnn[1].weight)
    assert history[-1]["nce"] < history[0]["nce"] and history[-1]["l1"] < history[0]["l1"]
    assert history[-1]["loss"] == pytest.approx(history[-1]["nce"] + history[-1]["l1"], rel=1e-5)
    assert history[-1]["matching"] > history[0]["matching"]
    assert all(p.requires_grad for p in model.parameters())


def test_pretraining_encodes_each_clip_once(monkeypatch):
    store, model = Store(32), small()
    seen = []
    encode = model.encode_frames
    monkeypatch.setattr(model, "encode_frames", lambda frames, count: seen.append(len(frames)) or encode(frames, count))
    E.pretrain_imu(model, store, teacher="t", **FAST)
    assert sum(seen) == 32


def test_order_of_the_data_depends_on_seed_and_epoch_alone():
    store, rows = Store(16), []

    class Probe(nn.Module):
        inputs = ("imu",)

        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 4)

        def forward(self, imu):
            if self.training:
                rows.append(imu[:, 0, 0].tolist())
            return Output(imu.mean(1), self.layer(imu.mean(1)))

    def run(seed, **change):
        rows.clear()
        torch.manual_seed(np.random.randint(1000))
        E.finetune(Probe(), store, **FAST | {"epochs": 2, "seed": seed} | change)
        return [list(row) for row in rows]

    first = run(0)
    assert first == run(0) and first != run(1) and first[:2] != first[2:]
    flat = [value for row in first[:2] for value in row]
    assert sorted(flat) == sorted(store.arrays["imu"][:, 0, 0].tolist())  # each clip once an epoch


SCRIPT = """
    import os, signal, sys
    sys.path[:0] = [{root!r}, {root!r} + "/tests"]
    import torch
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Ignored in the background of a shell.
    import egodistill as E
    import test_egodistill as T
    stage, out, kill_at, kill = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    model, store = T.small(), T.Store(24)
    settings = T.QUIET | dict(epochs=4, batch_size=8, learning_rate=1e-3, decay_epochs=(2,),
                              checkpoint=out + ".training", checkpoint_seconds=0.0)
    step = torch.optim.AdamW.step
    count = [0]
    def counted(self, *a, **k):
        count[0] += 1
        if count[0] == kill_at:
            os.kill(os.getpid(), kill)
        return step(self, *a, **k)
    torch.optim.AdamW.step = counted
    if stage == "finetune":
        E.finetune(model, store, **settings)
    elif stage == "distill":
        E.distill(model, store, teacher="t", **settings)
    else:
        E.pretrain_imu(model, store, teacher="t", **settings)
    model.save(out)
    print(count[0])
"""


@pytest.mark.parametrize("stage", ["finetune", "pretrain_imu", "distill"])
def test_a_killed_run_ends_with_the_same_bits(tmp_path, stage):
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(SCRIPT.format(root=str(ROOT))))

    def run(out, kill_at, kill=signal.SIGKILL):
        command = [sys.executable, str(script), stage, str(tmp_path / out), str(kill_at), str(int(kill))]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=300)

    whole = run("whole.pt", 0)
    assert whole.returncode == 0 and int(whole.stdout) == 12, whole.stderr
    assert run("killed.pt", 5).returncode == -signal.SIGKILL  # in the second epoch
    stopped = run("killed.pt", 4, signal.SIGINT)  # and Ctrl-C
    assert stopped.returncode == -signal.SIGINT and "KeyboardInterrupt" in stopped.stderr
    rest = run("killed.pt", 0)
    assert rest.returncode == 0 and int(rest.stdout) == 12 - 4 - 3, rest.stderr
    assert same(EgoDistill.load(tmp_path / "whole.pt"), EgoDistill.load(tmp_path / "killed.pt"))
    histories = [(tmp_path / f"{name}.pt.jsonl").read_text().splitlines() for name in ("whole", "killed")]
    for a, b in zip(*histories, strict=True):
        a, b = json.loads(a), json.loads(b)
        assert a["loss"] == b["loss"] and a["epoch"] == b["epoch"]
    assert int(run("killed.pt", 0).stdout) == 0  # a finished run is not done again


def test_code_in_a_file_does_not_run_whoever_reads_it(tmp_path):
    class Evil:
        def __reduce__(self):
            return open, (str(tmp_path / "ran"), "w")

    path = tmp_path / "evil.pt"
    torch.save({"format": E.TRAINING_FORMAT, "about": Evil()}, path)
    for read in (
        EgoDistill.load,
        baselines.Baseline.load,
        experiments.load,
        lambda path: small(image_weights=path),
        lambda path: E.distill(small(), Store(16), teacher="t", **FAST | {"checkpoint": path}),
    ):
        with pytest.raises(EgoDistillError, match=r"evil\.pt cannot be read as a checkpoint.*holds code"):
            read(path)
    assert not (tmp_path / "ran").exists()


def test_a_checkpoint_of_another_run_is_refused(tmp_path):
    store = Store(16)
    settings = FAST | {"epochs": 1, "checkpoint": tmp_path / "c.pt"}
    E.distill(small(), store, teacher="t", **settings)
    with pytest.raises(EgoDistillError, match=r"c\.pt.*tau was 1\.0 and is now 2\.0"):
        E.distill(small(), store, teacher="t", tau=2.0, **settings)


def test_another_list_of_classes_is_refused(tmp_path):
    """By the checkpoint of a run, and by a student that a file holds."""
    store, other = Store(16), Store(16)
    other.class_names = [*CLASSES[:3], "wash"]
    settings = FAST | {"epochs": 1, "checkpoint": tmp_path / "c.pt"}
    model = small()
    E.distill(model, store, teacher="t", **settings)
    with pytest.raises(EgoDistillError, match=r"c\.pt.*class_names was .*'take'.* and is now .*'wash'"):
        E.distill(small(), other, teacher="t", **settings)
    model.save(tmp_path / "student.pt")
    for use in (lambda m: E.distill(m, other, teacher="t", **FAST), lambda m: E.evaluate(m, other, **QUIET)):
        with pytest.raises(EgoDistillError, match=r"other class names: 4 .*take.* and 4 .*wash"):
            use(EgoDistill.load(tmp_path / "student.pt"))


def test_a_loss_that_is_not_finite_names_step_clips_and_the_last_checkpoint(tmp_path):
    store, path = Named(16), tmp_path / "c.pt"
    order = torch.randperm(16, generator=torch.Generator().manual_seed(E.mix(0, 1))).tolist()  # of the second epoch
    read = store.read

    def spoilt(name, index):
        array = read(name, index)
        if name == "imu" and index.tolist() == order[8:]:
            array[2] = np.nan
        return array

    store.read = spoilt
    with pytest.raises(EgoDistillError) as error:
        E.finetune(small(), store, **FAST | {"checkpoint": path})
    assert "in epoch 1, step 1" in str(error.value) and f"{path}, is kept" in str(error.value)
    assert ", ".join(f"clip-{row}" for row in order[8:]) in str(error.value)
    content = torch.load(path, weights_only=True)
    assert content["state"]["epoch"] == 1 and all(v.isfinite().all() for v in content["weights"].values())


def test_weights_that_are_not_finite_are_not_saved(tmp_path, monkeypatch):
    """The loss is still finite when the step spoils the weights."""
    step = torch.optim.AdamW.step

    def spoil(self):
        step(self)
        self.param_groups[0]["params"][0].data[0] = math.inf

    monkeypatch.setattr(torch.optim.AdamW, "step", spoil)
    with pytest.raises(EgoDistillError, match="weights are no longer finite in epoch 0, step 1"):
        E.finetune(small(), Store(16), **FAST | {"checkpoint": tmp_path / "c.pt", "checkpoint_seconds": 0.0})
    assert list(tmp_path.iterdir()) == []


def test_a_full_disk_leaves_the_old_checkpoint(tmp_path, full_disk):
    path, model = tmp_path / "student.pt", small(image_encoder="squeezenet1_1")
    model.save(path)
    before = path.read_bytes()
    with full_disk(len(before) // 2), pytest.raises(OSError) as error:
        model.save(path)
    assert isinstance(error.value, EgoDistillError) and str(path) in str(error.value)
    assert f"needs {len(before) / 1e6:.0f}" in str(error.value) and "too large" in str(error.value).lower()
    assert path.read_bytes() == before and [p.name for p in tmp_path.iterdir()] == ["student.pt"]


def test_a_full_disk_is_told_with_the_file(tmp_path, full_disk):
    """Of texts, such as tables of results: the system's own words name no file."""
    path = tmp_path / "results.json"
    path.write_text("old")
    with full_disk(100), pytest.raises(OSError, match=r"File too large: '.*/results\.json'"), E.whole(path) as part:
        part.write_text("new" * 100)
    assert path.read_text() == "old" and list(tmp_path.iterdir()) == [path]


def test_training_says_what_does_not_fit():
    store = Store(16)
    with pytest.raises(EgoDistillError, match=r"no array 'other\.feature'.*extract"):
        E.distill(small(), store, teacher="other", **FAST)
    with pytest.raises(EgoDistillError, match="feature_dim=12"):
        E.distill(small(feature_dim=9), store, teacher="t", **FAST)
    with pytest.raises(EgoDistillError, match=r"frames_4.*num_frames=4"):
        E.finetune(small(num_frames=4), store, **FAST)
    with pytest.raises(EgoDistillError, match="frame_size=32"):
        E.finetune(small(frame_size=64), store, **FAST)
    with pytest.raises(EgoDistillError, match="class names"):
        E.finetune(small(class_names=CLASSES[::-1]), store, **FAST)
    with pytest.raises(EgoDistillError, match="use_imu=False"):
        E.pretrain_imu(small(use_imu=False), store, teacher="t", **FAST)
    with pytest.raises(TypeError, match="epoch"):
        E.finetune(small(), store, epoch=3)
    unlabelled = Store(16)
    unlabelled.labels[3] = -1
    for use in (lambda: E.finetune(small(), unlabelled, **FAST), lambda: E.evaluate(small(), unlabelled, **QUIET)):
        with pytest.raises(EgoDistillError, match="1 of 16 clips have no label"):
            use()
    store.arrays["imu"][3] = np.nan
    with pytest.raises(EgoDistillError, match="loss is nan in epoch 0"):
        E.finetune(small(), store, **FAST)


BF16 = pytest.mark.skipif(
    not E.has_bf16_kernels(),
    reason="oneDNN has no bf16 kernels for this processor, and emulating them takes minutes",
)


@BF16
def test_mixed_precision_trains():
    store, model = Store(32), small()
    E.finetune(model, store, **FAST | {"precision": "bf16"})
    assert E.evaluate(model, store, precision="bf16", **QUIET).top1 >= 0.9


# --- Evaluation


def test_evaluation_averages_scores_over_the_clips_of_a_segment():
    class Fixed(nn.Module):
        """Scores are what the store's array says."""

        inputs, class_names = ("scores",), CLASSES

        def forward(self, scores):
            return Output(scores, scores.log())

    store = Store(5)
    store.labels = np.array([0, 0, 1, 1, 1])
    store.segments = np.array([7, 7, 3, 3, 3])  # any numbers, in any order
    scores = [[0.9, 0.0999, 0.0001, 0], [0.001, 0.3, 0.699, 0], [0.55, 0.45, 0, 0], [0.6, 0.4, 0, 0], [0.0, 0.0, 1, 0]]
    store.arrays["scores"] = np.array(scores, dtype=np.float32) + 1e-9
    store.arrays["t.feature"] = store.arrays["scores"] + 0.25
    result = E.evaluate(Fixed(), store, teacher="t", **QUIET)
    # Segment 7: mean scores (0.45, 0.2, 0.35), class 0, right; mean logits would say class 1.
    # Segment 3: mean scores (0.383, 0.283, 0.333), class 0, wrong.
    assert result.top1 == 0.5 and result.per_class == {"close": 1.0, "open": 0.0}
    assert result.confusion.tolist() == [[1, 0, 0, 0], [1, 0, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]]
    assert result.scores.shape == (2, 4) and result.clips == 5
    assert result.feature_distance == pytest.approx(0.25, abs=1e-5)


class Mirror(nn.Module):
    """The feature of a clip is what is given."""

    inputs, class_names = ("place",), CLASSES

    def forward(self, place):
        return Output(place, torch.zeros(len(place), 4))


def mirrored(places):
    store = Store(len(places))
    store.arrays["place"] = np.array(places, dtype=np.float32)
    return store


def test_retrieval_finds_the_nearest_clips_by_the_metric_asked_for():
    store = mirrored([[10.0, 0.0], [0.0, 1.0], [0.6, 0.6]])
    query = torch.tensor([[1.0, 0.1], [0.1, 2.0]])
    found = E.retrieve(Mirror(), store, query, top=2, **QUIET)
    assert found.rows.tolist() == [[0, 2], [1, 2]]  # By direction; lengths say nothing.
    assert found.distance[0, 0] == pytest.approx(1 - 1 / math.hypot(1, 0.1), abs=1e-6)
    found = E.retrieve(Mirror(), store, query, top=3, metric="l1", **QUIET)
    assert found.rows.tolist() == [[2, 1, 0], [1, 2, 0]]
    assert found.distance[0].tolist() == pytest.approx([0.45, 0.95, 4.55], abs=1e-6)
    with pytest.raises(EgoDistillError, match="'cosine' or 'l1'"):
        E.retrieve(Mirror(), store, query, metric="l2", **QUIET)


def test_retrieval_from_what_a_teacher_saw():
    store = mirrored([[1.0, 0.0], [0.0, 1.0]])
    store.arrays["t.feature"] = np.array([[0.0, 1.0], [1.0, 0.0]], dtype=np.float32)  # the other way round
    query = torch.tensor([[1.0, 0.0]] * 3)
    found = E.retrieve(Mirror(), store, query, teacher="t", top=1, batch_size=2, **QUIET)
    assert found.rows.tolist() == [[1]] * 3
    store.arrays["t.feature"] = np.zeros((2, 5), dtype=np.float32)
    for options, words in (({"teacher": "t"}, "has 2 numbers and t's 5"), ({"teacher": "u"}, "extract"), ({}, "top=5")):
        with pytest.raises(EgoDistillError, match=words):
            E.retrieve(Mirror(), store, query, top=1 if options else 5, **options, **QUIET)
    with pytest.raises(EgoDistillError, match="reads place; got 2 inputs"):
        E.retrieve(Mirror(), store, query, query, top=1, **QUIET)


def test_one_frame_with_other_head_motion_finds_other_clips():
    """Figure 6: the student with head motion answers by the motion, that of frames alone gives one answer."""
    store = Store(32)
    both, frames = small(), small(use_imu=False)
    E.finetune(both, store, **FAST)
    frame = torch.from_numpy(store.read("frames_1", [0])).expand(2, -1, -1, -1, -1)
    imu = torch.from_numpy(store.read("imu", [0, 1]))
    both.train()  # Dropout would make the answer one of chance.
    found = E.retrieve(both, store, frame, imu, top=1, **QUIET)
    assert found.rows[0] == 0 and found.distance[0] == pytest.approx(0, abs=1e-5) and both.training
    assert store.labels[found.rows[1]] == store.labels[1]
    alone = E.retrieve(frames, store, frame, top=3, **QUIET).rows
    assert alone[0].tolist() == alone[1].tolist()


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
        x = np.stack([imu.window(0.0, rate=422 / 9.9, min_coverage=0.9) for imu in imus])
        windows[name] = torch.from_numpy(x), torch.tensor([names.index(label) for label in labels])
    torch.manual_seed(0)
    model = nn.Sequential(E.IMUEncoder(), nn.AdaptiveAvgPool1d(1), nn.Flatten(), nn.Linear(16, 4))
    optimizer = torch.optim.AdamW(model.parameters(), lr=3e-3)
    x, y = windows["train"]
    for _ in range(30):
        nn.functional.cross_entropy(model(x - x.mean(1, keepdim=True)), y).backward()
        optimizer.step()
        optimizer.zero_grad()
    x, y = windows["test"]
    with torch.no_grad():
        assert (model.eval()(x - x.mean(1, keepdim=True)).argmax(1) == y).float().mean() > 0.8


def test_measure():
    cost = E.measure(small(), batch_size=2, repeats=2, device="cpu")
    assert cost.params == sum(p.numel() for p in small().parameters())
    assert cost.ms_per_clip > 0 and cost.device == "cpu"
    linear = nn.Linear(10, 5)
    linear.example = lambda batch: (torch.zeros(batch, 10),)
    for precision in ("fp32", "bf16"):  # A model that gives one tensor will do.
        cost = E.measure(linear, batch_size=1, repeats=1, device="cpu", precision=precision)
        assert cost.gmacs == pytest.approx(50e-9)
        assert 1e-5 < cost.feature_error < 0.01 if precision == "bf16" else cost.feature_error == 0


@pytest.mark.parametrize("built_inside", [False, True])
def test_operations_are_counted_in_inference_mode(built_inside):
    """torch 2.4 sees no operation there and counts 0."""
    torch.manual_seed(0)
    model, cpu = small(), torch.device("cpu")
    wanted = E.count_macs(model, cpu)
    assert wanted > 1e6
    with torch.inference_mode():
        model = small() if built_inside else model
        assert E.count_macs(model, cpu) == wanted
        assert E.measure(model, batch_size=1, repeats=1, device="cpu", precision="fp32").gmacs == wanted / 1e9
        assert torch.is_inference_mode_enabled()


@torch.library.custom_op("egodistill_tests::hidden_linear", mutates_args=())
def hidden_linear(x: torch.Tensor, weight: torch.Tensor) -> torch.Tensor:
    return x @ weight.T


def test_a_count_of_zero_is_an_error():
    """Operations that the counter cannot see are not free. A model without weights has none."""

    class Hidden(nn.Linear):
        def example(self, batch):
            return (torch.zeros(batch, 3),)

        def forward(self, x):
            return hidden_linear(x, self.weight)

    class Mean(nn.Module):
        example = Hidden.example

        def forward(self, x):
            return x.mean(1, keepdim=True)

    model, cpu = Hidden(3, 2).train(), torch.device("cpu")
    with pytest.raises(EgoDistillError, match=r"Hidden has weights.* no multiply-adds .*custom operators"):
        E.count_macs(model, cpu)
    assert model.training and E.count_macs(Mean(), cpu) == 0


def test_measure_keeps_to_its_time():
    """The model is run once to count, then to warm up and for the clock."""

    class Slow(nn.Linear):
        runs = 0

        def example(self, batch):
            return (torch.zeros(batch, 3),)

        def forward(self, x):
            self.runs += 1
            time.sleep(0.02)
            return super().forward(x)

    for options, runs, repeats in (
        ({"repeats": 4}, 1 + 2 + 4, 4),
        ({"repeats": 4, "seconds": 60}, 1 + 2 + 4, 4),
        ({"repeats": 4, "seconds": 0.001}, 1 + 2, 2),
        ({"repeats": 1, "seconds": 0.001}, 1 + 1, 1),
    ):
        model = Slow(3, 3)
        cost = E.measure(model, batch_size=2, device="cpu", precision="fp32", **options)
        assert (model.runs, cost.repeats) == (runs, repeats), options
        assert cost.ms_per_clip >= 9.9
    cost = E.measure(Slow(3, 3), batch_size=1, device="cpu", precision="fp32", repeats=99, seconds=0.2)
    assert 2 <= cost.repeats <= 10
    with pytest.raises(EgoDistillError, match="batch_size=0 and repeats=10 must be at least 1"):
        E.measure(small(), batch_size=0)


def test_small_resnet_is_the_one_of_listentolook(tmp_path):
    """Number by number; it is saved by its name, and has no weights to download."""
    torch.manual_seed(0)
    theirs = baselines.ResNet(baselines.BasicBlock, (1, 1, 1, 1), 16).eval()
    options = {"image_encoder": "resnet10x16", "frame_size": 64, "use_imu": False}
    model = EgoDistill(4, image_weights=None, **options).eval()
    ours = model.image_encoder
    assert model.image_dim == 128 and len(ours.state_dict()) == len(theirs.state_dict())
    names = dict(zip(ours.state_dict(), theirs.state_dict().values(), strict=True))
    for value in names.values():
        if value.is_floating_point():
            value += 0.1 * torch.rand_like(value)
    again = EgoDistill(4, image_weights=names, **options).eval()
    pixels = torch.randn(2, 3, 64, 64)
    with torch.no_grad():
        wanted = theirs(pixels).mean((2, 3))
        torch.testing.assert_close(again.image_encoder(pixels), wanted, rtol=1e-4, atol=1e-5)
        assert (ours(pixels) - wanted).abs().max() > 0.01
    again.save(tmp_path / "small.pt")
    loaded = EgoDistill.load(tmp_path / "small.pt")
    assert torch.equal(loaded.image_encoder(pixels), again.image_encoder(pixels))
    with pytest.raises(EgoDistillError, match=r"resnet10x16.*no published weights"):
        EgoDistill(4, **options)
    with pytest.raises(EgoDistillError, match="no classification network"):
        EgoDistill(4, image_encoder="resnet10x0", image_weights=None)


@pytest.mark.parametrize(("width", "instructions"), [(4, "AVX2"), (4, "ALL"), (8, "AVX512_CORE")])
def test_gradients_of_narrow_shortcuts(width, instructions):
    """oneDNN's strided 1x1 kernels are wrong below 8 channels with AVX2, below 16 with AVX-512."""
    gradients.check("student", width, instructions)


@pytest.mark.parametrize(("channels", "stride"), [(2, 2), (4, 2), (12, 3), (16, 2), (4, 1)])
def test_shortcuts(channels, stride):
    """Wherever they select pixels first, numbers, names and multiply-adds are those of a strided convolution."""
    torch.manual_seed(0)
    plain = nn.Sequential(nn.Conv2d(channels, 8, 1, stride, bias=False), nn.BatchNorm2d(8))
    ours = E.shortcut(channels, 8, stride)
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


def test_no_encoder_of_torchvision_has_narrow_shortcuts():
    """All of its strided 1x1 convolutions are wider than the broken kernels, so that they are left as they are."""
    found = []
    for name in ("resnet18", "resnet50", "regnet_x_400mf", "regnet_y_400mf"):  # the kinds that have such layers
        for layer in torchvision.models.get_model(name, weights=None).modules():
            if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.stride != (1, 1):
                found.append(layer.in_channels // layer.groups)
    assert len(found) == 14 and min(found) >= E.LARGEST_BLOCK


def test_agreement_with_fp32():
    exact = Output(torch.tensor([[1.0, -4.0], [2.0, 0.0]]), torch.tensor([[0.0, 1.0], [1.0, 0.0]]))
    fast = Output(torch.tensor([[1.0, -3.0], [2.5, 0.0]]), torch.tensor([[0.0, 9.0], [0.0, 1.0]]))
    assert E.agree(fast, exact) == {"same_top1": 0.5, "feature_error": 0.25}
    cost = E.measure(small(), batch_size=4, repeats=1, device="cpu", precision="fp32")
    assert (cost.precision, cost.same_top1, cost.feature_error) == ("fp32", 1.0, 0.0)
    cost = E.measure(small(), batch_size=4, repeats=1, device="cpu", precision="bf16")
    assert cost.precision == "bf16" and 0 < cost.feature_error < 0.05


# --- What inference runs in


def pretend(monkeypatch, kernels=True, **capabilities):
    """A processor that has these, and a oneDNN with or without bf16 kernels for it."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setattr(E, "has_bf16_kernels", lambda: kernels)


CPU = torch.device("cpu")


@pytest.mark.parametrize(
    "expected, reason, capabilities",
    [
        ("bf16", "Intel Xeon has AMX", {"avx512_bf16": True, "amx_bf16": True, "cpu_name": "Intel Xeon"}),
        ("bf16", "AMD EPYC has AVX512_BF16", {"avx512_bf16": True, "amx_bf16": False, "cpu_name": "AMD EPYC"}),
        ("fp32", "AMD EPYC has no AVX512_BF16", {"avx512_bf16": False, "cpu_name": "AMD EPYC"}),
        ("fp32", "Intel Xeon has no AMX", {"avx512_bf16": True, "amx_bf16": False, "cpu_name": "Intel Xeon"}),
        ("fp32", "this CPU has no AMX", {"neon": True, "bf16": True}),
        ("fp32", "this CPU has no AMX", {}),
        ("fp32", "no bf16 kernels", {"amx_bf16": True, "cpu_name": "Intel Xeon", "kernels": False}),
    ],
)
def test_auto_is_bf16_where_the_processor_is_fast_at_it(expected, reason, capabilities, monkeypatch):
    pretend(monkeypatch, **capabilities)
    fast, why = E.bf16_speed(CPU)
    assert fast is (expected == "bf16") and reason in why
    assert E.pick_precision(CPU, "auto") == E.Training(precision="auto", device="cpu").precision == expected
    for given in ("fp32", "bf16"):  # what is asked for holds
        assert E.pick_precision(CPU, given) == E.Training(precision=given).precision == given


def test_auto_elsewhere(monkeypatch):
    cuda = torch.device("cuda", 1)
    assert E.pick_precision(torch.device("mps"), "auto") == "fp32"
    for capability, expected in (((7, 5), "fp32"), ((8, 0), "bf16"), ((12, 0), "bf16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert E.pick_precision(cuda, "auto") == expected
    monkeypatch.setattr(torch.version, "hip", "6.2")  # Its numbers mean something else.
    assert E.pick_precision(cuda, "auto") == "fp32"
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)  # torch 2.4 has none
    assert E.pick_precision(CPU, "auto") == "fp32" and "does not say" in E.bf16_speed(CPU)[1]
    for wrong in (lambda: E.measure(small(), precision="fp16"), lambda: E.Training(precision="fp16")):
        with pytest.raises(EgoDistillError, match="'auto', 'fp32' or 'bf16'; got 'fp16'"):
            wrong()


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="oneDNN's limit is for x86")
def test_auto_heeds_a_limit_of_the_instruction_set():
    """A limit that oneDNN is given does not change what the processor says of itself."""
    code = "import torch, egodistill as E; print(E.pick_precision(torch.device('cpu'), 'auto'))"
    limit = os.environ | {"DNNL_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=limit, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "fp32"


@pytest.mark.parametrize("amx", [True, False])
def test_inference_runs_in_what_auto_found(amx, sample_data, monkeypatch):
    pretend(monkeypatch, amx_bf16=amx)
    model, store, ran = small(class_names=CLASSES, use_imu=False), Store(8), []
    model.classifier.register_forward_hook(lambda layer, inputs, output: ran.append((output.dtype, output.grad_fn)))
    dtype, name = (torch.bfloat16, "bf16") if amx else (torch.float32, "fp32")
    assert E.evaluate(model, store, **QUIET).precision == name
    next(E.predict(model, sample_data / "gopro" / "max-heromode.mp4", exact=False, device="cpu"))
    assert ran == [(dtype, None)] * 2
    assert E.measure(model, batch_size=1, repeats=1, device="cpu").precision == name
    # counted, warmed up and timed; then fp32 again to compare with
    assert [found for found, _ in ran[2:]] == [torch.float32] + [dtype] * 3 + [torch.float32] * amx
    ran.clear()
    assert E.evaluate(model, store, precision="fp32", **QUIET).precision == "fp32" and ran == [(torch.float32, None)]


@pytest.mark.parametrize(
    "build",
    [
        lambda: EgoDistill(4, image_weights=None, frame_size=64),
        lambda: EgoDistill(4, image_weights=None, frame_size=64, image_encoder="shufflenet_v2_x0_5"),
        lambda: baselines.AdaFuse(4, weights=None, frame_size=64, width=16),
        lambda: baselines.ListenToLook(4, weights=None, frame_size=64),
    ],
)
def test_convolutions_get_channels_last(build):
    """By 25 % the faster layout on CPUs, and that of tensor cores. Where a map is 1 x 1 there is no telling."""
    model, told = build().eval(), []

    def tell(layer, inputs, output):
        if output.shape[1] > 1 and output.shape[2] * output.shape[3] > 1:
            told.append(output.is_contiguous(memory_format=torch.channels_last))

    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(tell)
    with torch.no_grad():
        model(*model.example(2))
    assert len(told) >= 20 and all(told)


def test_compile_gives_the_same(monkeypatch, capsys):
    """Through Dynamo, without a compiler. The last batch is smaller and goes through the model as it is."""
    sizes, real = [], torch.compile

    def spy(model):
        fast = real(model, backend="eager")

        def run(*inputs):
            sizes.append(len(inputs[0]))
            return fast(*inputs)

        return run

    store, model = Store(10), small()
    plain = E.evaluate(model, store, batch_size=4, precision="fp32", **QUIET)
    monkeypatch.setattr(torch, "compile", spy)
    fast = E.evaluate(model, store, batch_size=4, precision="fp32", compile=True, **QUIET)
    assert torch.allclose(fast.scores, plain.scores, atol=1e-6) and sizes == [4, 4]
    cost = E.measure(model, batch_size=3, repeats=2, device="cpu", precision="fp32", compile=True)
    assert sizes[2:] == [3] * 4 and cost.feature_error < 1e-5 and cost.same_top1 == 1.0
    assert not capsys.readouterr().err


@pytest.mark.parametrize("when", ["at once", "in the first batch"])
def test_without_a_compiler_the_model_runs_as_it_is(when, monkeypatch, sample_data, capsys):
    def compile_(model):
        def run(*inputs):
            raise RuntimeError("No working C++ compiler found\nand much more")

        return run() if when == "at once" else run

    monkeypatch.setattr(torch, "compile", compile_)
    store, model = Store(10), small(class_names=CLASSES)
    plain = E.evaluate(model, store, batch_size=4, **QUIET)
    assert not capsys.readouterr().err
    assert torch.equal(E.evaluate(model, store, batch_size=4, compile=True, **QUIET).scores, plain.scores)
    line = "torch.compile failed, so the model runs uncompiled: No working C++ compiler found\n"
    assert capsys.readouterr().err == line
    video = sample_data / "gopro" / "max-heromode.mp4"
    assert list(E.predict(model, video, batch_size=2, compile=True)) == list(E.predict(model, video, batch_size=2))
    assert capsys.readouterr().err == line
    frames, imu = model.example(2)
    with pytest.raises(EgoDistillError, match=r"imu is float \[batch, 422, 6\]"):  # The model's own, and no word more.
        E.compiled(model)(frames, imu[:, 1:])
    assert not capsys.readouterr().err


def test_attention_is_counted_on_a_cpu():
    """Two products of 6 x 5 scores with 4 channels, in 3 heads: torch's counter itself says nothing there."""

    class Attention(torch.nn.Module):
        def example(self, batch_size):
            return [torch.randn(batch_size, 3, length, 4) for length in (6, 5, 5)]

        def forward(self, q, k, v):
            return torch.nn.functional.scaled_dot_product_attention(q, k, v)

    for device in ("cpu", "meta"):
        assert E.count_macs(Attention(), torch.device(device)) == 2 * 3 * 6 * 5 * 4


def test_reading_ahead_hides_the_reading():
    class Slow(Store):
        def read(self, name, index):
            time.sleep(0.02)
            return super().read(name, index)

    waits = []
    for _, wait in E.read_ahead(Slow(32), ["imu"], torch.arange(32), 4, torch.device("cpu")):
        time.sleep(0.04)
        waits.append(wait)
    assert len(waits) == 8 and np.median(waits[1:]) < 0.01


# --- Prediction


def test_predict_on_a_real_recording(sample_data):
    """The GoPro walk: clips one after another, head motion out of the MP4 itself."""
    model = small(class_names=CLASSES)
    video = sample_data / "gopro" / "max-heromode.mp4"
    exactly = {"precision": "fp32", "device": "cpu"}
    rows = list(E.predict(model, video, batch_size=2, **exactly))
    assert [round(row.start, 3) for row in rows] == [0.0, 2.133, 4.267, 6.4]
    assert all(row.stop - row.start == pytest.approx(64 / 30) for row in rows)
    for row in rows:
        assert row.problem is None and len(row.classes) == 4
        assert sum(score for _, score in row.classes) == pytest.approx(1, abs=1e-4)
        assert [s for _, s in row.classes] == sorted((s for _, s in row.classes), reverse=True)
    again = list(E.predict(model, video, batch_size=16, **exactly))
    for a, b in zip(rows, again, strict=True):
        assert dict(a.classes) == pytest.approx(dict(b.classes), abs=1e-4)
    cheap = next(E.predict(model, video, exact=False, **exactly))
    frames = torch.from_numpy(data.read_frames(video, [32 / 30], size=model.frame_size, exact=False))[None]
    window = torch.from_numpy(data.read_imu(video).window(0.0))[None]
    scores = model(frames, window).logits.softmax(1)[0].tolist()
    assert dict(cheap.classes) == pytest.approx(dict(zip(CLASSES, scores, strict=True)), abs=2e-6)
    assert dict(cheap.classes) != pytest.approx(dict(rows[0].classes), abs=5e-6)


def test_predict_reads_the_next_clips_while_the_model_works(monkeypatch):
    """Not more than one group ahead, so that memory does not grow; and each clip gets its own frames."""
    begun = [threading.Event() for _ in range(6)]
    reads, runs, priorities = [], [], set()

    def read_frames(video, times, size, exact):
        if sys.platform == "linux":
            priorities.add(os.getpriority(os.PRIO_PROCESS, threading.get_native_id()))
        begun[len(reads)].set()
        reads.append(list(times))
        return np.stack([np.full((3, size, size), round(10 * time), np.uint8) for time in times])

    class Eyes(nn.Module):
        inputs, num_frames, num_classes, frame_size, clip_seconds, class_names = ("frames",), 1, 2, 4, 2.0, None

        def forward(self, frames):
            assert len(reads) <= len(runs) + 2  # these, and the next
            runs.append(len(frames))
            assert len(runs) == 5 or begun[len(runs)].wait(10)  # the next ones are being read by now
            seen = frames[:, 0, 0, 0, 0].float()
            return Output(seen[:, None], torch.stack([seen, 0 * seen], 1) / 100)

    monkeypatch.setattr(data, "probe", lambda video: data.VideoInfo(20.0, 30.0, 8, 8, False))
    monkeypatch.setattr(data, "read_frames", read_frames)
    rows = list(E.predict(Eyes(), "walk.mp4", batch_size=2, device="cpu"))
    assert [row.start for row in rows] == [2.0 * k for k in range(10)] and runs == 5 * [2]
    for row in rows:  # the middle of the clip, in tenths of a second
        score = torch.tensor([10 * (row.start + 1.0) / 100, 0.0]).softmax(0)[0]
        assert row.classes[0] == ("0", pytest.approx(float(score)))
    if sys.platform == "linux":  # What reads gives way to the model.
        assert priorities == {os.getpriority(os.PRIO_PROCESS, 0) + 5}


def test_predict_says_where_head_motion_is_missing(sample_data, tmp_path):
    table = (sample_data / "gopro-derived" / "walk_imu.csv").read_text().splitlines()
    kept = [line for k, line in enumerate(table) if k == 0 or not 2000 < float(line.split(",")[2]) < 4000]
    (tmp_path / "imu.csv").write_text("\n".join(kept) + "\n")
    rows = list(E.predict(small(), sample_data / "gopro-derived" / "walk_vp9_30fps.mp4", tmp_path / "imu.csv"))
    assert [bool(row.classes) for row in rows] == [False, False, True, True]
    assert "covers" in rows[0].problem


def test_predict_says_at_once_what_does_not_fit(sample_data, tmp_path):
    """At the call, and not where the clips are asked for."""
    model, video = small(), sample_data / "gopro" / "max-heromode.mp4"
    with pytest.raises(E.EgoDistillError, match="above 0; got -1"):
        E.predict(model, video, stride=-1)
    with pytest.raises(data.VideoError, match="nothing"):
        E.predict(model, tmp_path / "nothing.mp4")
    (tmp_path / "imu.csv").write_text("what,is,this\n1,2,3\n")
    with pytest.raises(data.DataError, match="imu"):
        E.predict(model, video, tmp_path / "imu.csv")
