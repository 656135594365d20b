"""refusal: the class "unsure" of a student of head motion."""

import math

import numpy as np
import pytest
import torch
from torch.nn import functional as F
from toys import QUIET, Arrays

from egodistill import distill, distillation, evaluate, finetune, training
from egodistill.engine import refusal
from egodistill.engine.filterbank import IMUFilterbank
from egodistill.student import EgoDistill

NAME, SAMPLES, RATE = "filterbank-unsure", 500, 50.0
MOTIONS = {"nod": (1.0, 0.3, 0.5), "walk": (2.0, 2.0, 0.4)}  # Hz, m/s2, rad/s


def motion(name, count, seed=0):
    """Clips [count, 500, 6] of a head that nods or walks, each with its own pace and size, sensors turned at random."""
    draws = np.random.default_rng(seed)
    pace, size, turn = MOTIONS[name]
    times, found = np.arange(SAMPLES) / RATE, draws.normal(0, 0.02, (count, SAMPLES, 6))
    found[:, :, 2] += 9.81
    for clip in found:
        phases = 2 * np.pi * (pace * draws.uniform(0.9, 1.1) * times[:, None] + draws.random(6))
        clip += np.sin(phases) * np.array([0.3 * size] * 2 + [size] + [turn] * 3) * draws.uniform(0.7, 1.4, 6)
    return turned(torch.from_numpy(found).float(), draws)


def turned(imu, draws, mirrored=False):
    turn = np.linalg.qr(draws.normal(size=(len(imu), 3, 3)))[0]
    turn *= (np.sign(np.linalg.det(turn)) * (-1 if mirrored else 1))[:, None, None]
    return (imu.unflatten(2, (2, 3)) @ torch.from_numpy(turn).float()[:, None]).flatten(2)


def encoder_of(count=300):
    """An encoder whose refusal knows both motions, and their numbers and labels."""
    encoder = IMUFilterbank(SAMPLES, RATE, known=2).eval()
    numbers = torch.cat([encoder.numbers(motion(name, count)) for name in MOTIONS])
    labels = torch.arange(2).repeat_interleave(count)
    encoder.refusal.fit(numbers, labels, torch.arange(2 * count) % 10)
    return encoder, numbers, labels


class Motions(Arrays):
    """Clips of both motions, in turn, of so many wearers; each clip is a segment."""

    class_names, path = list(MOTIONS), None

    def __init__(self, count=40, wearers=4, seed=0):
        imu = torch.stack([motion(name, count, seed) for name in MOTIONS], 1).flatten(0, 1)
        self.arrays = {"imu": imu.numpy(), "t.feature": np.zeros((2 * count, 8), np.float32)}
        self.labels, self.segments = np.arange(2 * count) % 2, np.arange(2 * count)
        self.arrays["t.logits"] = 8 * np.eye(2, dtype=np.float32)[self.labels]
        self.wearers = [f"P{k // 2 % wearers}" for k in range(2 * count)]


FAST = {"epochs": 4, "batch_size": 16, "learning_rate": 1e-2, "schedule": "cosine", "precision": "fp32", **QUIET}


def new_student():
    torch.manual_seed(0)
    options = {"image_encoder": None, "imu_encoder": NAME, "imu_rate": RATE, "clip_seconds": 10}
    return EgoDistill(3, feature_dim=8, hidden=16, fusion_layers=1, class_names=[*MOTIONS, "unsure"], **options).eval()


def student_of():
    """A student of both motions that has learned nothing but its refusal."""
    model = new_student()
    model.imu_encoder.refusal.load_state_dict(encoder_of()[0].refusal.state_dict())
    with torch.no_grad():  # sure of the first class
        model.classifier.bias.copy_(torch.tensor([4.0, 0.0]))
    return model


def test_the_statistic_is_that_of_gaussians_with_full_covariance():
    encoder, numbers, labels = encoder_of()
    chosen = torch.cat(
        [
            numbers[:, :48].unflatten(1, (16, 3)).exp().sum(2).log(),  # power in bands of about 1.5 octaves
            numbers[:, [encoder.names.index(name) for name in refusal.TIMES]],
        ],
        1,
    ).double()
    scatters = [(part - part.mean(0)).T @ (part - part.mean(0)) for part in (chosen[labels == 0], chosen[labels == 1])]
    wanted = []
    for label, scatter in enumerate(scatters):
        covariance = (scatter + 22 * sum(scatters) / 600) / (300 + 22)
        covariance += 0.1 * covariance.diagonal().diag()
        away = chosen - chosen[labels == label].mean(0)
        wanted.append(((away @ covariance.inverse()) * away).sum(1) + covariance.logdet())
    found = encoder.refusal.statistic(numbers)
    torch.testing.assert_close(found.double(), torch.stack(wanted).amin(0), rtol=1e-3, atol=1e-2)


def test_as_many_new_clips_are_unlike_as_were_held_back():
    encoder, *_ = encoder_of()
    numbers = torch.cat([encoder.numbers(motion(name, 500, seed=1)) for name in MOTIONS])
    assert 0.005 < (encoder.refusal(numbers) > 0).float().mean() < 0.05  # 0.02


def test_the_limit_is_that_of_wearers_who_were_left_out():
    """Each wearer is the only one of a kind, so its clips are unlike those of the others."""
    encoder, numbers, labels = encoder_of()
    wearers = torch.arange(600) % 6
    own = numbers + 3 * torch.randn(6, numbers.shape[1], generator=torch.Generator().manual_seed(0))[wearers]
    encoder.refusal.fit(own, labels, wearers)
    by_wearer = encoder.refusal.limit.item()
    encoder.refusal.fit(own, labels, torch.arange(600) // 6 % 6)  # groups that each have clips of all wearers
    assert by_wearer > encoder.refusal.limit.item() + 50


@pytest.mark.parametrize(
    "change",
    [
        lambda imu: imu * torch.tensor([1.0] * 3 + [57.3] * 3),  # degrees per second
        lambda imu: imu / torch.tensor([9.81] * 3 + [1.0] * 3),  # g
        lambda imu: imu * torch.tensor([1.0] * 3 + [0.0] * 3),  # a dead gyroscope
        lambda imu: imu + 0.5 * torch.randn(imu.shape),
        lambda imu: 0 * imu,
    ],
)
def test_what_no_head_does_is_unsure(change):
    model = student_of()
    imu = torch.cat([motion(name, 20, seed=2) for name in MOTIONS])
    with torch.no_grad():
        assert (model(imu).logits.argmax(1) == 2).float().mean() < 0.2
        assert (model(change(imu)).logits.argmax(1) == 2).all()


@pytest.mark.parametrize("mirrored", [False, True])
def test_unsure_does_not_depend_on_the_mounting(mirrored):
    model, imu = student_of(), motion("walk", 30, seed=3)
    other = turned(imu, np.random.default_rng(4), mirrored)
    with torch.no_grad():
        found, wanted = (model.imu_encoder(one)[:, -1] for one in (other, imu))
    torch.testing.assert_close(found, wanted, rtol=1e-2, atol=1e-2)


def test_an_answer_is_known_or_unsure_and_known_classes_keep_their_shares():
    shares = torch.tensor([[0.9, 0.06, 0.04], [0.53, 0.4, 0.07], [0.49, 0.4, 0.11], [0.9, 0.06, 0.04]])
    logits = refusal.with_unsure(shares.log() + 3, torch.tensor([[-9.0], [-9.0], [-9.0], [0.1]]))
    chances = logits.softmax(1)
    assert chances.argmax(1).tolist() == [0, 0, 3, 3]
    torch.testing.assert_close(chances[:, :3] / chances[:, :3].sum(1, keepdim=True), shares)
    assert chances[0, 3] < 0.15  # a clear answer is hardly disturbed
    assert (chances[3, :3] < 0.5).all()  # what is unlike is nothing with half of the chance
    assert (refusal.with_unsure(torch.zeros(1, 3), torch.tensor([[-9.0]])).argmax(1) == 3).all()  # level


def test_the_class_unsure_changes_no_gradient_of_the_known_classes():
    model, imu, labels = student_of(), motion("walk", 8), torch.tensor([0, 1] * 4)
    F.cross_entropy(model(imu).logits[:, :2], labels).backward()
    wanted = [one.grad.clone() for one in model.parameters()]
    assert not [name for name, _ in model.named_parameters() if "refusal" in name] and len(wanted) == 6
    model.zero_grad()
    encoder = model.imu_encoder
    features = encoder(imu)[:, :-1]
    F.cross_entropy(model.classifier(model.fusion(None, features)), labels).backward()
    for one, other in zip(model.parameters(), wanted, strict=True):
        torch.testing.assert_close(one.grad, other)


def test_it_is_part_of_the_file(tmp_path):
    model, imu = student_of(), motion("walk", 8, seed=5) * torch.tensor([1.0] * 3 + [57.3] * 3)
    model.save(tmp_path / "student.safetensors")
    loaded = EgoDistill.load(tmp_path / "student.safetensors")
    assert loaded.class_names[-1] == refusal.UNSURE and loaded.inputs == ("imu",)
    with torch.no_grad():
        assert torch.equal(loaded(imu).logits, model(imu).logits) and (loaded(imu).logits.argmax(1) == 2).all()


def test_a_student_that_was_not_fitted_finds_nothing_unlike():
    encoder = IMUFilterbank(SAMPLES, RATE, known=2).eval()
    assert (encoder(1e3 * torch.randn(4, SAMPLES, 6))[:, -1] == -6).all()


def test_a_class_of_few_clips_is_known():
    """With two clips, its covariance is nearly that of the other class."""
    encoder, numbers, _ = encoder_of()
    encoder.refusal.fit(numbers[:302], torch.tensor([0] * 300 + [1] * 2), torch.arange(302) // 151)
    assert (encoder.refusal(numbers[300:302]) < 0).all() and (encoder.refusal(numbers) > 0).float().mean() < 0.5


@pytest.mark.parametrize(
    ("labels", "groups", "said"),
    [
        ([0, 0, 1], [0, 1, 0], r"clips of the classes"),
        ([0, 0, 1, 1], [0] * 4, "1 groups"),
        ([0, 0, 2, 2], [0, 1] * 2, "do not fit 2"),
    ],
)
def test_too_little_to_learn_from_is_refused(labels, groups, said):
    encoder = IMUFilterbank(SAMPLES, RATE, known=2)
    with pytest.raises(ValueError, match=said):
        encoder.refusal.fit(torch.zeros(len(labels), encoder.dim - 1), torch.tensor(labels), torch.tensor(groups))


def test_the_last_class_is_named_unsure_and_not_the_only_one():
    for names in (["unsure"], ["walk", "run"], None):
        with pytest.raises(ValueError, match="needs class_names, two or more, the last of which is 'unsure'"):
            EgoDistill(2 if names is None else len(names), class_names=names, image_encoder=None, imu_encoder=NAME)


def test_level_is_the_share_it_is_called():
    """At exactly `LEAST`, "unsure" is as probable as the answer."""
    shares = torch.tensor([[refusal.LEAST, 1 - refusal.LEAST]])
    found = refusal.with_unsure(shares.log(), torch.tensor([[-9.0]]))
    assert found[0, 2].item() == pytest.approx(math.log(refusal.LEAST), abs=1e-5)


def fitted(store, groups):
    """What the refusal has to be after a training on labelled clips of these groups."""
    encoder, known = IMUFilterbank(SAMPLES, RATE, known=2), store.labels >= 0
    numbers, labels = encoder.numbers(torch.from_numpy(store.arrays["imu"][known])), torch.tensor(store.labels[known])
    encoder.refusal.fit(numbers, labels, torch.as_tensor(groups)[known])
    return encoder.refusal.state_dict()


def is_fitted(model, wanted):
    found = model.imu_encoder.refusal.state_dict()
    return all(torch.equal(found[name], value) for name, value in wanted.items())


@pytest.mark.parametrize("stage", [finetune, lambda *given, **named: distill(*given, teacher="t", **named)])
def test_a_training_ends_with_unsure_fitted_by_wearer(stage):
    """The store does not know the class, neither does the teacher, and its clips have no part in the loss."""
    model, store = new_student(), Motions()
    store.labels[:6] = -1
    stage(model, store, **FAST)
    assert is_fitted(model, fitted(store, np.arange(80) // 2 % 4))
    assert not is_fitted(model, fitted(store, np.arange(80)))
    fresh = Motions(seed=1)
    found = evaluate(model, fresh, **QUIET)
    assert found.top1 > 0.8 and found.confusion.shape == (3, 3) and set(found.per_class) == set(MOTIONS)
    fresh.arrays["imu"] *= np.float32([1.0] * 3 + [57.3] * 3)
    assert evaluate(model, fresh, **QUIET).confusion[:, 2].sum() == 80


def test_without_two_wearers_groups_are_recordings_or_else_segments():
    wanted = {"recordings": np.arange(80) // 2 % 5, "segments": np.arange(80)}
    for kind, groups in wanted.items():
        model, store = new_student(), Motions(wearers=1)
        if kind == "recordings":
            store.clips = [{"id": k, "video": f"{group}.mp4"} for k, group in enumerate(groups)]
        finetune(model, store, **FAST)
        assert is_fitted(model, fitted(store, groups)), kind


def test_too_few_clips_to_tell_what_is_unlike_are_said():
    def once(count):
        store = Motions(count, wearers=1)
        store.segments = store.labels
        return store

    for store, reason in ((once(10), "two groups with one class"), (once(1), r"\[1, 1\] clips of the classes")):
        model = new_student()
        with pytest.warns(UserWarning, match=f"does not learn what is unlike.*{reason}.*no clip counts as unlike"):
            finetune(model, store, **FAST)
        assert (model.imu_encoder(1e3 * torch.randn(4, SAMPLES, 6))[:, -1] == -6).all()
    model = student_of()
    before = {name: value.clone() for name, value in model.imu_encoder.refusal.state_dict().items()}
    with pytest.warns(UserWarning, match="it keeps what it had learned before"):
        finetune(model, once(10), **FAST)
    assert is_fitted(model, before)


def test_an_interrupted_training_fits_the_same_bits(tmp_path, monkeypatch):
    """The weights are those of an earlier epoch, which the validation likes best; unsure is as fitted at the end."""
    options = FAST | {"validation": Motions(8, seed=1), "checkpoint": tmp_path / "c", "keep_checkpoint": True}
    whole, model, steps = new_student(), new_student(), []
    history = finetune(whole, Motions(), **options | {"checkpoint": None})
    assert np.argmax([row["validation_top1"] for row in history]) < 3
    step = training.TrainingLoop.end_epoch

    def stop(self, *given):
        step(self, *given)
        steps.append(self.epoch)
        if self.epoch == 2:
            raise KeyboardInterrupt

    with monkeypatch.context() as patch, pytest.raises(KeyboardInterrupt):
        patch.setattr(training.TrainingLoop, "end_epoch", stop)
        finetune(new_student(), Motions(), **options)
    for _ in range(2):  # the rest; and what is finished
        finetune(model, Motions(), **options)
        assert steps == [1, 2] and is_fitted(model, fitted(Motions(), np.arange(80) // 2 % 4))
        for one, other in zip(model.state_dict().values(), whole.state_dict().values(), strict=True):
            assert torch.equal(one, other)
        model = new_student()


def test_labels_do_not_train_unsure():
    store, model = Motions(8), student_of()
    objective = distillation.Finetune(model, store).eval()
    imu, labels = torch.from_numpy(store.arrays["imu"]), torch.from_numpy(store.labels)
    found = objective({"imu": imu, "label": labels, "weight": torch.ones(16)})
    known = model.classifier(model.fusion(None, model.encode_imu(imu)[:, :-1]))
    torch.testing.assert_close(found["loss"], F.cross_entropy(known, labels, reduction="none"))
    assert found["top1"].tolist() == (known.argmax(1) == labels).float().tolist()


def test_a_class_of_one_group_does_not_widen_the_limit():
    """Left out, its clips are unlike what is left, which says nothing about new clips of a known class."""
    encoder, numbers, labels = encoder_of()
    groups = torch.where(labels == 0, torch.arange(600) % 10, 10)
    encoder.refusal.fit(numbers, labels, groups)
    assert 0 < (encoder.refusal(numbers) > 0).float().mean() < 0.05
    limit = encoder.refusal.limit.item()
    assert abs(limit - encoder_of()[0].refusal.limit.item()) < 20


def test_clips_that_are_all_alike_are_fitted():
    encoder = IMUFilterbank(SAMPLES, RATE, known=2)
    encoder.refusal.fit(torch.zeros(8, encoder.dim - 1), torch.arange(8) % 2, torch.arange(8) // 4)
    assert encoder.refusal(torch.zeros(1, encoder.dim - 1)) <= 0 < encoder.refusal(torch.ones(1, encoder.dim - 1))


def test_the_classifier_alone_learns_own_classes_on_top():
    """The numbers' statistics are not those of the few new clips; unsure learns what is unlike these."""
    first, store = new_student(), Motions()
    finetune(first, store, **FAST)
    store.class_names = ["cooking", "cycling"]
    model = first.with_classes(store.class_names)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    finetune(model.freeze_trunk(), store, **FAST | {"epochs": 2})  # few steps, after which statistics would settle
    changed = {name for name, value in model.state_dict().items() if not torch.equal(value, before[name])}
    refusal_of = {f"imu_encoder.refusal.{name}" for name in ("means", "roots", "volumes", "limit")}
    assert changed == {"classifier.weight", "classifier.bias"} | refusal_of
    assert model.class_names == ["cooking", "cycling", "unsure"] and evaluate(model, store, **QUIET).top1 > 0.8
