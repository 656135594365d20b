"""Losses and stages: equations, what is learnt, what does not fit."""

import functools
import inspect
import json
import math
from dataclasses import replace

import numpy as np
import pytest
import torch
from toys import CLASSES, FAST, QUIET, Cosine, Moved, Store, small

from egodistill import (
    EGO4D,
    EPIC_KITCHENS,
    IMU_SAMPLES,
    Augment,
    DistillationSettings,
    EgoDistill,
    EgoDistillError,
    IMUPredictor,
    Output,
    PretrainingSettings,
    StudentSettings,
    Training,
    distill,
    distillation,
    evaluate,
    finetune,
    pretrain_imu,
)
from egodistill.engine import runtime
from egodistill.support import files


def test_action_loss_is_cross_entropy():
    logits = torch.tensor([[2.0, 0.0], [0.0, 1.0]])
    wanted = [math.log(1 + math.exp(-2)), math.log(1 + math.exp(1))]
    assert distillation.action_loss(logits, torch.tensor([0, 0])).tolist() == pytest.approx(wanted)
    both = [distillation.action_loss(logits, torch.tensor([k, k])) for k in range(logits.shape[1])]
    mixed = 0.8 * both[0] + 0.2 * sum(both) / len(both)  # A fifth of the target is spread over all classes.
    assert torch.allclose(distillation.action_loss(logits, torch.tensor([0, 0]), 0.2), mixed)


def test_feature_loss():
    a, b = torch.tensor([[1.0, 2.0], [3.0, 4.0]]), torch.tensor([[1.0, 0.0], [0.0, 5.0]])
    assert distillation.feature_loss(a, b).tolist() == pytest.approx([(0 + 2) / 2, (3 + 1) / 2])
    assert distillation.feature_loss(a, b, reduction="sum").tolist() == pytest.approx([2, 4])


def test_distillation_loss_is_the_divergence_from_teacher_to_student():
    student, teacher, tau = torch.tensor([[1.0, 0.0, -1.0]]), torch.tensor([[0.0, 2.0, 0.0]]), 2.0
    p, q = (torch.exp(x[0] / tau) / torch.exp(x[0] / tau).sum() for x in (teacher, student))
    wanted = float((p * (p / q).log()).sum())
    assert float(distillation.distillation_loss(student, teacher, tau)) == pytest.approx(wanted, rel=1e-5)
    assert float(distillation.distillation_loss(student, teacher, tau, tau_squared=True)) == pytest.approx(
        4 * wanted, rel=1e-5
    )
    assert float(distillation.distillation_loss(teacher, teacher, tau)) == pytest.approx(0, abs=1e-6)
    both = distillation.distillation_loss(student.repeat(5, 1), teacher.repeat(5, 1), tau)
    assert both.tolist() == pytest.approx(5 * [wanted], rel=1e-5)


def test_contrastive_loss_follows_equation_7():
    torch.manual_seed(0)
    predicted, actual = torch.randn(4, 8), torch.randn(4, 8)
    wanted = []
    for i in range(4):
        sim = [
            math.exp(float(predicted[i] @ actual[j] / predicted[i].norm() / actual[j].norm()) / 0.1) for j in range(4)
        ]
        wanted.append(-math.log(sim[i] / sum(sim)))
    assert distillation.contrastive_loss(predicted, actual).tolist() == pytest.approx(wanted, rel=1e-4)
    assert distillation.contrastive_loss(3 * predicted, 0.1 * actual).tolist() == pytest.approx(wanted, rel=1e-4)
    other = distillation.contrastive_loss(actual, predicted)
    symmetric = distillation.contrastive_loss(predicted, actual, symmetric=True)
    both = [(row + column) / 2 for row, column in zip(wanted, other.tolist(), strict=True)]
    assert symmetric.tolist() == pytest.approx(both, rel=1e-4) and other.tolist() != pytest.approx(wanted, rel=1e-3)


def test_total_of_equation_6():
    store, model = Store(16), small()
    losses = []
    for alpha, beta in ((1.0, 0.0), (0.0, 0.0), (0.0, 1.0), (0.95, 2.0)):
        twin = small()
        twin.load_state_dict(model.state_dict())
        history = distill(twin, store, teacher="t", alpha=alpha, beta=beta, tau=4.0, epochs=1, batch_size=16, **QUIET)
        losses.append(history[0])
    kd, gt, both, mixed = losses
    assert kd["loss"] == pytest.approx(kd["kd"]) and gt["loss"] == pytest.approx(gt["gt"])
    assert both["loss"] == pytest.approx(both["gt"] + both["l1"], rel=1e-5)
    assert mixed["loss"] == pytest.approx(0.95 * mixed["kd"] + 0.05 * mixed["gt"] + 2 * mixed["l1"], rel=1e-5)


def test_losses_of_ones_own_replace_those_to_the_teacher(tmp_path):
    store, model, unit = Store(16), small(), torch.nn.functional.normalize
    objective = Cosine(model, store, DistillationSettings(), "t").eval()
    batch = {name: torch.tensor(store.arrays[name]) for name in objective.reads} | {"label": torch.tensor(store.labels)}
    with torch.no_grad():
        feature, found = model(batch["frames_1"], batch["imu"]).feature, objective(batch)
    wanted = 1 - (unit(feature) * unit(batch["t.feature"])).sum(1)
    assert found["l1"].tolist() == pytest.approx(wanted.tolist(), rel=1e-4) and not found["kd"].any()
    options = {"alpha": 0.25, "beta": 2.0, "batch_size": 16, **QUIET}
    kept = {"checkpoint": tmp_path / "c", "keep_checkpoint": True}
    (row,) = distill(model, store, teacher="t", epochs=1, objective=Cosine, **options, **kept)
    assert row["loss"] == pytest.approx(0.75 * row["gt"] + 2 * row["l1"], rel=1e-5)
    with pytest.raises(ValueError, match="objective was 'toys:Cosine'"):
        distill(small(), store, teacher="t", epochs=1, **options, **kept)
    with pytest.raises(EgoDistillError, match=r"is not a class that inherits from distillation\.Distill"):
        distill(model, store, teacher="t", objective=torch.nn.L1Loss, **options)


def record_classes(store, folder, names):
    """As `claim_outputs()` does for the teacher "t"."""
    store.path = folder
    (folder / "t.teacher.json").write_text(json.dumps({"class_names": names}))


LACKS_IT = {  # what may be done to a teacher's logits, with a filler in place of the class that it lacks
    "as they are": lambda logits: logits,
    "fp16": lambda logits: logits.astype(np.float16).astype(np.float32),
    "centred": lambda logits: logits - logits.mean(1, keepdims=True),
    "scaled": lambda logits: logits / 3,
    "a filler of one's own": lambda logits: np.where(np.arange(5) == 2, np.float32(-1e4), logits),
}


@pytest.mark.parametrize("says", [*LACKS_IT, "always", "never"])
def test_a_teacher_without_none_is_made_to_say_it_of_background(says, tmp_path):
    """As surely as the best class of other clips, and all others alike; one that knows it says what it says.

    Which it is, the record of its outputs says: also if it never says the class, as outputs of one's own may.
    """
    store, place = Store(24), 2
    store.class_names = [*CLASSES[:place], "(none)", *CLASSES[place:]]
    record_classes(store, tmp_path, CLASSES if says in LACKS_IT else store.class_names)
    store.labels = np.where(np.arange(24) < 8, place, store.labels + (store.labels >= place))
    logits = np.random.default_rng(1).normal(0, 2, (24, 5)).astype(np.float32)
    logits[:, place] = logits.min() + {"always": 30, "never": -1}.get(says, 0)
    logits = LACKS_IT.get(says, np.copy)(logits)
    store.arrays["t.logits"] = logits
    encoder = {"image_encoder": "resnet10x16", "image_weights": None, "frame_size": 32}
    model = EgoDistill(5, feature_dim=12, hidden=32, **encoder)
    objective = distillation.Distill(model, store, DistillationSettings(tau=3.0), "t").eval()
    batch = {name: torch.tensor(store.arrays[name]) for name in objective.reads} | {"label": torch.tensor(store.labels)}
    with torch.no_grad():
        said, found = model(batch["frames_1"], batch["imu"]).logits, objective(batch)["kd"]
    others = np.sort(np.delete(logits[8:], place, 1), 1)
    wanted = logits.copy()
    if says in LACKS_IT:
        wanted[:8] = others[:, :-1].mean()
        wanted[:8, place] = others[:, -1].mean()
    assert says == "never" or wanted[:8].argmax(1).tolist() == [place] * 8
    wanted = distillation.distillation_loss(said, torch.from_numpy(wanted), 3.0)
    assert found.tolist() == pytest.approx(wanted.tolist(), rel=1e-5)
    store.labels = np.full(24, place)  # all is background: there is no other clip to learn it from
    assert distillation.background_logits(store, "t") is None


def test_outputs_without_a_record_count_as_what_the_teacher_says_and_a_warning_tells():
    store = Store(24)
    store.class_names, store.labels = [*CLASSES, "(none)"], np.arange(24) % 5
    with pytest.warns(UserWarning, match=r"no record says whether the teacher 't' knows the class '\(none\)'"):
        assert distillation.background_logits(store, "t") is None


def test_beside_one_class_none_is_said_as_surely_as_that(tmp_path):
    store = Store(8)
    record_classes(store, tmp_path, ["walk"])
    store.class_names, store.labels = ["(none)", "walk"], np.arange(8) % 2
    store.arrays["t.logits"] = np.tile(np.float32([-5, 2]), (8, 1))
    assert distillation.background_logits(store, "t")[1].tolist() == [2.0, -8.0]


def test_a_student_of_other_classes_keeps_what_does_not_depend_on_them():
    """Also networks of one's own, which stay apart from those of the first student."""
    first = small(imu_encoder=Moved, class_names=CLASSES).eval()
    frames, imu = (torch.from_numpy(Store(6).arrays[name]) for name in ("frames_1", "imu"))
    with torch.no_grad():
        wanted = first(frames, imu)
        model = first.with_classes(["a", "b", "c"]).eval()
        found = model(frames, imu)
    assert torch.equal(found.feature, wanted.feature) and found.logits.shape == (6, 3)
    assert (model.class_names, model.num_classes, first.class_names) == (["a", "b", "c"], 3, CLASSES)
    store = Store(24)
    store.labels, store.class_names = store.labels % 3, ["a", "b", "c"]
    finetune(model, store, **FAST | {"epochs": 1})
    with torch.no_grad():
        assert torch.equal(first(frames, imu).logits, wanted.logits)


def test_a_student_learns_from_labels_and_needs_both_inputs():
    store = Store(32)
    both, frames = small(), small(imu_encoder=None)
    motion = small(image_encoder=None)
    for model in (both, frames, motion):
        finetune(model, store, **FAST)
    fresh = Store(32, seed=5)
    assert evaluate(motion, fresh, **QUIET).top1 <= 0.75  # The frame alone tells which pair it is.
    assert len(distill(motion, store, teacher="t", **FAST | {"epochs": 1})) == 1
    assert evaluate(both, fresh, **QUIET).top1 >= 0.9
    assert evaluate(frames, fresh, **QUIET).top1 <= 0.75  # The gyroscope alone tells the verb of a pair.


def test_a_student_learns_from_the_teacher():
    store, model = Store(32), small()
    store.labels = np.zeros_like(store.labels)  # The labels say nothing: only the teacher can teach.
    history = distill(model, store, teacher="t", alpha=1.0, **FAST)
    store.labels = Store(32).labels
    result = evaluate(model, store, teacher="t", **QUIET)
    assert result.top1 >= 0.9
    assert history[-1]["kd"] < 0.5 * history[0]["kd"]
    assert [row["learning_rate"] for row in history] == [2e-3] * 9 + [pytest.approx(2e-4)] * 3


def test_presets_are_the_papers():
    """Section 4.1 and appendix C. Stage 1 is the same on both data sets."""
    for recipe, epochs, decay_epochs, tau in ((EPIC_KITCHENS, 50, (30, 40), 1.0), (EGO4D, 150, (90, 120), 10.0)):
        for stage in (recipe.finetuning, recipe.distillation):
            assert (stage.epochs, stage.decay_epochs) == (epochs, decay_epochs)
        assert (recipe.distillation.alpha, recipe.distillation.beta, recipe.distillation.tau) == (0.95, 1.0, tau)
        assert (recipe.pretraining.epochs, recipe.pretraining.decay_epochs) == (50, (30, 40))
        for stage in (recipe.finetuning, recipe.pretraining, recipe.distillation):
            assert (stage.batch_size, stage.learning_rate, stage.decay, stage.schedule) == (64, 1e-4, 0.1, "step")
        assert (recipe.student.image_encoder, recipe.student.image_weights) == ("resnet18", "imagenet")
    paper = Training()
    assert [paper.learning_rate_at(epoch) for epoch in (0, 29.9, 30, 40)] == pytest.approx([1e-4, 1e-4, 1e-5, 1e-6])
    smooth = Training(epochs=10, schedule="cosine", warmup_epochs=2, learning_rate=1.0)
    assert [smooth.learning_rate_at(epoch) for epoch in (0, 1, 2, 5, 10)] == pytest.approx(
        [0, 0.4878, 0.9045, 0.5, 0], abs=1e-4
    )
    with pytest.raises(EgoDistillError, match=r"schedule.*'linear'"):
        Training(schedule="linear")


def test_the_demos_recipe():
    """The README's numbers come from it."""
    for stage, clips in (("finetuning", 32), ("pretraining", 64), ("distillation", 32)):
        settings = getattr(distillation.SYNTHETIC, stage)
        assert (settings.epochs, settings.learning_rate, settings.batch_size) == (6, 1e-3, clips)
        assert (settings.schedule, settings.warmup_epochs) == ("cosine", 1.5)
    student = distillation.SYNTHETIC.student
    assert (student.image_encoder, student.image_weights, student.feature_dim) == ("resnet10x16", None, 1920)
    assert distillation.SYNTHETIC.distillation.tau == 1.0


def test_a_recipe_builds_its_student():
    """Every field is an argument of the constructor, with its default, and reaches it."""
    arguments = inspect.signature(EgoDistill.__init__).parameters
    plain = StudentSettings().arguments()
    assert plain == {name: arguments[name].default for name in plain}
    other = StudentSettings(2, "resnet10x4", None, "mean", 8, 24, 1, 12, "concat")
    parts = ("imu_encoder", "fusion", "optional_inputs")
    assert all(getattr(other, name) != default for name, default in plain.items() if name not in parts)
    built = other.build(4, class_names=CLASSES, frame_size=32).arguments
    own = {name: value for name, value in other.arguments().items() if value is not None}
    assert built.items() >= (own | {"num_classes": 4, "frame_size": 32}).items()
    frames_only = replace(other, imu_encoder=None).build(4, feature_dim=7)  # a teacher's
    assert frames_only.inputs == ("frames",) and frames_only.feature_dim == 7
    assert replace(other, num_frames=1, image_encoder=None).build(4).inputs == ("imu",)


def test_a_recipe_changes_every_training_and_nothing_else():
    recipe = EGO4D.with_training(epochs=7, precision="bf16")
    for stage in ("finetuning", "pretraining", "distillation"):
        assert getattr(recipe, stage) == replace(getattr(EGO4D, stage), epochs=7, precision="bf16")
    assert recipe.student is EGO4D.student and EGO4D.distillation.epochs == 150
    changed = files.differences(EGO4D.record(), replace(recipe, student=StudentSettings(hidden=8)).record())
    assert set(changed) == {
        "student.hidden",
        *(f"{stage}.precision" for stage in ("finetuning", "pretraining", "distillation")),
        *(f"{stage}.epochs" for stage in ("finetuning", "pretraining", "distillation")),
    }
    assert EGO4D.with_training(device="meta", checkpoint="c").record() == EGO4D.record()  # not what decides accuracy


STAGES = {
    "finetune": (finetune, Training, {}),
    "pretrain_imu": (pretrain_imu, PretrainingSettings, {"teacher": "t"}),
    "distill": (distill, DistillationSettings, {"teacher": "t"}),
}


@pytest.mark.parametrize("stage", STAGES)
def test_settings_and_keywords_say_the_same(stage):
    """Keywords change the settings that are given, and the paper's where none are."""
    train, kind, named = STAGES[stage]
    losses = []
    for settings, changes in (
        ([], FAST | {"epochs": 2}),
        ([kind(**FAST)], {"epochs": 2}),
        ([kind(**FAST | {"epochs": 2})], {}),
    ):
        losses.append([row["loss"] for row in train(small(), Store(8), *settings, **named, **changes)])
    assert losses[0] == losses[1] == losses[2] and len(losses[0]) == 2


@pytest.mark.parametrize("stage", STAGES)
def test_settings_of_another_stage_are_refused(stage):
    """They would be ignored in part, or lack what the stage needs."""
    train, kind, named = STAGES[stage]
    for other in (EGO4D, *(other() for _, other, _ in STAGES.values() if other is not kind)):
        with pytest.raises(EgoDistillError, match=f"{kind.__name__}, not {type(other).__name__}.*`distillation`"):
            train(small(), Store(16), other, **named)
    with pytest.raises(TypeError, match=f"{kind.__name__}.*'epoch'"):
        train(small(), Store(16), epoch=3, **named)


def test_losses_follow_their_settings():
    """Each setting of a loss changes it."""
    store, brief = Store(16), FAST | {"epochs": 1}

    def loss(train, **changes):
        return train(small(), store, teacher="t", **brief, **changes)[0]["loss"]

    for train, changes in (
        (distill, {"alpha": 0.5, "beta": 2.0, "tau": 4.0, "l1_reduction": "sum"}),
        (
            pretrain_imu,
            {"nce_tau": 0.3, "nce_weight": 2.0, "l1_weight": 0.5, "l1_reduction": "sum", "symmetric": True},
        ),
    ):
        found = [loss(train), *(loss(train, **{name: value}) for name, value in changes.items())]
        assert len(set(found)) == len(found)
    assert loss(distill, tau=4.0) != loss(distill, tau=4.0, tau_squared=True)


def test_augmenting_what_is_not_read_is_refused():
    """Stage 1 computes the features of the frames once."""
    with pytest.raises(
        EgoDistillError, match=r"pretrain_imu reads no frames, so augment=Augment\(crop=0\.3, jitter=0\.0, shift=0\.0,"
    ):
        pretrain_imu(small(), Store(16), teacher="t", augment=Augment(crop=0.3), **FAST)
    with pytest.raises(EgoDistillError, match=r"finetune reads no head motion, so augment=.*; leave it out"):
        finetune(small(imu_encoder=None), Store(16), augment=Augment(shift=0.1), **FAST)
    with pytest.raises(EgoDistillError, match=r"IMUSpectrum has no weights.*; go on with distill\(\)"):
        pretrain_imu(small(imu_encoder="spectrum"), Store(16), teacher="t", **FAST)


def test_a_predictor_of_another_model_is_refused():
    model = small()
    with pytest.raises(
        EgoDistillError, match=rf"IMUPredictor\(8, 8\), but .* are \({model.image_dim}, {model.imu_dim}\)"
    ):
        pretrain_imu(model, Store(16), teacher="t", predictor=IMUPredictor(8, 8), **FAST)
    with pytest.raises(EgoDistillError, match=r"pretrain_imu reads no labels, so label_smoothing=0\.1 would"):
        pretrain_imu(small(), Store(16), teacher="t", label_smoothing=0.1, **FAST)


@pytest.mark.parametrize(("stage", "name"), [(finetune, "loss"), (distill, "gt")])
def test_labels_are_smoothed_where_they_are_read(stage, name):
    taught = {} if stage is finetune else {"teacher": "t"}
    losses = [
        stage(small(), Store(16), label_smoothing=share, **taught, **FAST | {"epochs": 1})[0][name]
        for share in (0.0, 0.9)
    ]
    assert losses[1] != losses[0] and abs(losses[1] - math.log(4)) < 0.4  # nearly the same target for all four classes


def test_pretraining_matches_head_motion_and_leaves_the_image_encoder():
    store, model = Store(32), small()
    # Each clip's motion of its own: the last frame is shifted by what the gyroscope says.
    rng = np.random.default_rng(1)
    for k in range(32):
        shift = rng.integers(-12, 13)
        store.arrays["ends"][k, 1] = np.roll(store.arrays["ends"][k, 0], shift, axis=2)
        store.arrays["imu"][k, :, 3] += shift / 12 * np.sin(np.linspace(0, 6, IMU_SAMPLES))
    image, classifier = (
        {k: v.clone() for k, v in part.state_dict().items()} for part in (model.image_encoder, model.classifier)
    )
    imu = model.imu_encoder.cnn[1].weight.clone()
    history = pretrain_imu(model, store, teacher="t", **FAST | {"epochs": 25, "batch_size": 16, "decay_epochs": ()})
    assert all(torch.equal(v, image[k]) for k, v in model.image_encoder.state_dict().items())  # batch statistics, too
    assert all(torch.equal(v, classifier[k]) for k, v in model.classifier.state_dict().items())
    assert not torch.equal(imu, model.imu_encoder.cnn[1].weight)
    assert history[-1]["nce"] < history[0]["nce"] and history[-1]["l1"] < history[0]["l1"]
    assert history[-1]["loss"] == pytest.approx(history[-1]["nce"] + history[-1]["l1"], rel=1e-5)
    assert history[-1]["matching"] > history[0]["matching"]
    assert all(p.requires_grad for p in model.parameters())


def test_pretraining_encodes_each_clip_once(monkeypatch):
    store, model = Store(16), small()
    seen = []
    encode = model.encode_frames
    monkeypatch.setattr(model, "encode_frames", lambda frames, count: seen.append(len(frames)) or encode(frames, count))
    pretrain_imu(model, store, teacher="t", **FAST | {"epochs": 2})
    assert sum(seen) == 16


def test_a_finished_pretraining_encodes_nothing(tmp_path, monkeypatch):
    store, settings = Store(16), FAST | {"epochs": 1, "checkpoint": tmp_path / "c.pt"}
    first = pretrain_imu(small(), store, teacher="t", **settings)
    model = small()
    monkeypatch.setattr(model, "encode_frames", lambda *_: pytest.fail("nothing is to be trained"))
    assert pretrain_imu(model, store, teacher="t", **settings) == first


def test_training_says_what_does_not_fit():
    store = Store(16)
    with pytest.raises(EgoDistillError, match=r"no array 'other\.feature'.*extract"):
        distill(small(), store, teacher="other", **FAST)
    with pytest.raises(EgoDistillError, match="feature_dim=12"):
        distill(small(feature_dim=9), store, teacher="t", **FAST)
    with pytest.raises(EgoDistillError, match="feature_dim=12"):
        pretrain_imu(small(feature_dim=9), store, teacher="t", **FAST)
    with pytest.raises(EgoDistillError, match="feature_dim=12"):
        pretrain_imu(small(feature_dim=1), store, teacher="t", teacher_rows=np.arange(len(store)) < 20, **FAST)
    with pytest.raises(EgoDistillError, match=r"frames_4.*num_frames=4"):
        finetune(small(num_frames=4), store, **FAST)
    with pytest.raises(EgoDistillError, match="frame_size=32"):
        finetune(small(frame_size=64), store, **FAST)
    with pytest.raises(EgoDistillError, match="class names"):
        finetune(small(class_names=CLASSES[::-1]), store, **FAST)
    with pytest.raises(EgoDistillError, match=r"build the model with class_names=store\.class_names"):
        distill(small(class_names=CLASSES[::-1]), store, teacher="t", **FAST)
    for options, lacking in (({"imu_encoder": None}, "imu"), ({"image_encoder": None}, "frames")):
        with pytest.raises(EgoDistillError, match=f"needs frames and head motion, and this model reads no {lacking}"):
            pretrain_imu(small(**options), store, teacher="t", **FAST)
    with pytest.raises(TypeError, match="epoch"):
        finetune(small(), store, epoch=3)
    unlabelled = Store(16)
    unlabelled.labels[3] = -1
    with pytest.raises(EgoDistillError, match="1 of 16 clips have no label"):
        evaluate(small(), unlabelled, **QUIET)
    unlabelled.labels[:] = -1
    for use in (
        lambda: finetune(small(), unlabelled, **FAST),
        lambda: evaluate(small(), unlabelled, **QUIET),
        lambda: finetune(small(), store, validation=unlabelled, **FAST),
    ):
        with pytest.raises(
            EgoDistillError, match=r"none of the 16 clips has a label.*learns from a teacher's outputs \(prepare or"
        ):
            use()
    store.arrays["imu"][3] = np.nan
    with pytest.raises(EgoDistillError, match="the values 'imu' of the clips 3 are not finite"):
        finetune(small(), store, **FAST)


BF16 = pytest.mark.skipif(
    not runtime.has_bf16_kernels(),
    reason="oneDNN has no bf16 kernels for this processor, and emulating them takes minutes",
)


@BF16
def test_mixed_precision_trains():
    store, model = Store(32), small()
    finetune(model, store, **FAST | {"precision": "bf16"})
    assert evaluate(model, store, precision="bf16", **QUIET).top1 >= 0.9


def test_an_unknown_setting_is_named_with_its_like():
    with pytest.raises(
        TypeError, match=r"^DistillationSettings has no setting 'learningrate'; did you mean 'learning_rate'"
    ):
        distillation.distill(small(), Store(), teacher="t", learningrate=1e-3)
    with pytest.raises(TypeError, match=r"^Training has no setting 'teacher'; they are epochs, batch_size"):
        distillation.finetune(small(), Store(), teacher="t")


# --- Numbers by an independent computation, with settings that are not the usual ones


def log_softmax(x):
    x = x - x.max(1, keepdims=True)
    return x - np.log(np.exp(x).sum(1, keepdims=True))


def unit(x):
    return x / np.linalg.norm(x, axis=1, keepdims=True)


STAGE_1 = {"nce_tau": 0.3, "nce_weight": 0.7, "l1_weight": 0.2, "l1_reduction": "sum", "symmetric": True}


@pytest.mark.parametrize("settings", [{}, STAGE_1, STAGE_1 | {"symmetric": False}, STAGE_1 | {"l1_weight": 0.0}])
def test_the_losses_of_stage_1_are_those_of_section_3_4(settings):
    """First and last frame predict the motion; the frames between, two of them, go into the student."""
    store, rng = Store(7), np.random.default_rng(0)
    store.arrays["frames_2"] = rng.integers(0, 255, (7, 2, 3, 32, 32), dtype=np.uint8)
    store.arrays["ends"] = rng.integers(0, 255, (7, 2, 3, 32, 32), dtype=np.uint8)
    model = small(num_frames=2).eval()
    predictor = IMUPredictor(model.image_dim, model.imu_dim, hidden=5)
    settings = PretrainingSettings(precision="fp32", **settings)
    objective = distillation.PretrainIMU(model, predictor, "frames_2", settings, "t" if settings.l1_weight else None)
    objective.setup(store, replace(settings, batch_size=3, device="cpu", progress=False))
    rows = torch.tensor([4, 1, 6, 3])
    batch = {name: torch.from_numpy(store.arrays[name][rows]) for name in ("imu", "t.feature")}
    with torch.no_grad():
        found = objective(batch | {"row": rows, "weight": torch.ones(4)})
        clips = [torch.from_numpy(store.arrays[name][rows]) for name in ("ends", "frames_2")]
        first, last = (model.encode_frames(clips[0][:, k : k + 1], 1)[:, 0] for k in (0, 1))
        predicted, actual = predictor(first, last).numpy(), model.encode_imu(batch["imu"]).numpy()
        feature = model(clips[1], batch["imu"]).feature.numpy()
    similarity = unit(predicted) @ unit(actual).T
    nce = -np.diag(log_softmax(similarity / settings.nce_tau))
    if settings.symmetric:
        nce = (nce - np.diag(log_softmax(similarity.T / settings.nce_tau))) / 2
    np.testing.assert_allclose(found["nce"], nce, rtol=1e-4)
    np.testing.assert_array_equal(found["matching"], similarity.argmax(1) == np.arange(4))
    loss = settings.nce_weight * nce
    if settings.l1_weight:
        distance = np.abs(feature - batch["t.feature"].numpy())
        l1 = distance.sum(1) if settings.l1_reduction == "sum" else distance.mean(1)
        np.testing.assert_allclose(found["l1"], l1, rtol=1e-4)
        loss = loss + settings.l1_weight * l1
    np.testing.assert_allclose(found["loss"], loss, rtol=1e-4)
    assert ("l1" in found) == bool(settings.l1_weight)


def test_clips_without_a_teacher_take_part_in_the_contrastive_loss_alone():
    store, model = Store(7), small().eval()
    predictor = IMUPredictor(model.image_dim, model.imu_dim, hidden=5)
    taught = np.array([True, False, True, True, False, False, True])
    settings = PretrainingSettings(precision="fp32", l1_weight=0.7)
    whole = distillation.PretrainIMU(model, predictor, "frames_1", settings, "t")
    part = distillation.PretrainIMU(model, predictor, "frames_1", settings, "t", taught)
    assert "t.feature" in whole.reads and part.reads == ["imu"]
    for objective in (whole, part):
        objective.setup(store, replace(settings, device="cpu", progress=False))
    rows = torch.tensor([4, 0, 1, 6])
    batch = {name: torch.from_numpy(store.arrays[name][rows]) for name in ("imu", "t.feature")}
    batch |= {"row": rows, "weight": torch.ones(4)}
    with torch.no_grad():
        one, other = whole(batch), part(batch)
    known = torch.tensor([False, True, False, True])
    assert torch.equal(one["nce"], other["nce"]) and torch.equal(other["l1"].isnan(), ~known)
    assert torch.equal(one["l1"][known], other["l1"][known])
    assert torch.equal(other["loss"], one["nce"] + 0.7 * one["l1"].where(known, 0.0))


def test_stage_1_with_outputs_of_a_part_of_the_clips(tmp_path):
    """Clips without outputs are never read; with outputs of all clips nothing changes."""

    class Partly(Store):
        def read(self, name, rows):
            assert name != "t.feature" or set(np.atleast_1d(np.asarray(rows)).tolist()) <= {0, 1, 2, 3, 4}
            return super().read(name, rows)

    model = small()
    (history,) = pretrain_imu(model, Partly(12), teacher="t", teacher_rows=np.arange(12) < 5, epochs=1, **QUIET)
    assert math.isfinite(history["l1"]) and math.isfinite(history["loss"])
    histories = []
    for rows in (None, np.ones(12, bool)):
        model = small()
        histories += pretrain_imu(model, Store(12), teacher="t", teacher_rows=rows, epochs=1, **QUIET)
    assert [histories[0][name] for name in ("loss", "l1")] == [histories[1][name] for name in ("loss", "l1")]
    file = {"checkpoint": tmp_path / "c", **QUIET}
    pretrain_imu(small(), Store(12), teacher="t", teacher_rows=np.arange(12) < 5, epochs=1, **file)
    with pytest.raises(EgoDistillError, match="clips with a teacher"):  # as many clips, but others
        pretrain_imu(small(), Store(12), teacher="t", teacher_rows=np.arange(12) >= 7, epochs=2, **file)
    for rows in (np.ones(11, bool), np.arange(12), np.zeros(12, bool)):
        with pytest.raises(EgoDistillError, match=r"teacher_rows must be bool \[12\]"):
            pretrain_imu(small(), Store(12), teacher="t", teacher_rows=rows, epochs=1, **QUIET)


def test_matching_asks_which_motion_is_nearest_to_what_the_frames_predict(monkeypatch):
    """And not the other way round: with these similarities the two shares differ."""
    similarity = torch.tensor([[0.9, 0.8, 0.0], [0.95, 0.7, 0.1], [0.0, 0.0, 0.5]])
    vectors = torch.eye(3)
    monkeypatch.setattr(distillation, "cosine_similarity", lambda a, b: similarity if torch.equal(b, vectors) else None)
    model = small()
    objective = distillation.PretrainIMU(model, lambda *frames: 2 * vectors, "frames_1", PretrainingSettings(), "t")
    objective.features = torch.zeros(3, 3, model.image_dim)
    monkeypatch.setattr(model, "encode_imu", lambda imu: vectors)
    monkeypatch.setattr(model, "fuse", lambda image, imu: Output(torch.zeros(3, 12), torch.zeros(3, 4)))
    batch = {"imu": torch.zeros(3, 422, 6), "t.feature": torch.zeros(3, 12), "row": torch.arange(3)}
    assert objective(batch | {"weight": torch.ones(3)})["matching"].tolist() == [1.0, 0.0, 1.0]


STAGE_2 = {"alpha": 0.6, "beta": 0.3, "tau": 4.0, "tau_squared": True, "l1_reduction": "sum"}


@pytest.mark.parametrize("settings", [{}, STAGE_2, STAGE_2 | {"tau_squared": False, "l1_reduction": "mean"}])
def test_the_losses_of_stage_2_are_those_of_equation_6_and_the_models_own(settings):
    class Own(EgoDistill):
        def extra_loss(self, output, batch):
            return {"size": output.logits.square().mean(1), "label": batch["label"].float()}

    store, settings = Store(6), DistillationSettings(**settings)
    model = Own(4, feature_dim=12, image_encoder="resnet10x4", image_weights=None, frame_size=32, hidden=8).eval()
    objective = distillation.Distill(model, store, settings, "t")
    batch = {name: torch.from_numpy(value) for name, value in store.arrays.items()}
    batch["label"] = torch.from_numpy(store.labels)
    with torch.no_grad():
        found = objective(batch)
        feature, logits = (x.numpy().astype(np.float64) for x in model(batch["frames_1"], batch["imu"]))
    teacher = log_softmax(store.arrays["t.logits"].astype(np.float64) / settings.tau)
    kd = (np.exp(teacher) * (teacher - log_softmax(logits / settings.tau))).sum(1)
    kd *= settings.tau**2 if settings.tau_squared else 1
    gt = -log_softmax(logits)[np.arange(6), store.labels]
    distance = np.abs(feature - store.arrays["t.feature"])
    l1 = distance.sum(1) if settings.l1_reduction == "sum" else distance.mean(1)
    size = (logits**2).mean(1)
    loss = settings.alpha * kd + (1 - settings.alpha) * gt + settings.beta * l1 + size + store.labels
    expected = {"kd": kd, "gt": gt, "l1": l1, "size": size, "label": store.labels, "loss": loss}
    for name, value in expected.items():
        np.testing.assert_allclose(found[name], value, rtol=1e-4, err_msg=name)
    np.testing.assert_array_equal(found["top1"], logits.argmax(1) == store.labels)


def teaching(labels, **settings):
    """A model, the objective of stage 2 on clips with these labels, and a batch of all of them."""
    store = Store(len(labels))
    store.labels = np.array(labels)
    batch = {name: torch.from_numpy(value) for name, value in store.arrays.items()}
    batch |= {"label": torch.from_numpy(store.labels), "weight": torch.ones(len(labels))}
    model = small(image_encoder="resnet10x4", hidden=8)
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    return model, distillation.Distill(model, store, DistillationSettings(**settings), "t"), batch


def gradients(model, loss):
    model.zero_grad()
    loss.backward()
    return [p.grad.clone() for p in model.parameters() if p.grad is not None]


def test_with_labels_alone_nothing_differs_by_a_bit():
    model, objective, batch = teaching([0, 1, 2, 3, 1, 2], **STAGE_2)
    values = objective(batch)
    found = gradients(model, values["loss"].mean())
    feature, logits = model(batch["frames_1"], batch["imu"])
    kd = distillation.distillation_loss(logits, batch["t.logits"], 4.0, tau_squared=True)
    gt = torch.nn.functional.cross_entropy(logits, batch["label"], reduction="none")
    l1 = distillation.feature_loss(feature, batch["t.feature"], reduction="sum")
    loss = 0.6 * kd + (1 - 0.6) * gt + 0.3 * l1
    assert list(values) == ["loss", "kd", "gt", "l1", "top1"] and torch.equal(values["loss"], loss)
    wanted = gradients(model, loss.mean())
    assert len(found) == len(wanted) and all(map(torch.equal, found, wanted))


@pytest.mark.parametrize("labels", [[0, -1, 2, -1, -1, 3], [-1, 1, -1, -1, -1, -1]])
def test_the_label_term_is_the_mean_over_the_labelled_clips(labels):
    model, objective, batch = teaching(labels, **STAGE_2)
    values, known = objective(batch), torch.tensor(labels) >= 0
    found = gradients(model, values["loss"].mean())
    feature, logits = model(batch["frames_1"], batch["imu"])
    kd = distillation.distillation_loss(logits, batch["t.logits"], 4.0, tau_squared=True)
    gt = torch.nn.functional.cross_entropy(logits[known], batch["label"][known])
    l1 = distillation.feature_loss(feature, batch["t.feature"], reduction="sum")
    loss = 0.6 * kd.mean() + (1 - 0.6) * gt + 0.3 * l1.mean()
    assert float(values["loss"].detach().mean()) == pytest.approx(float(loss.detach()), rel=1e-5)
    for one, other in zip(found, gradients(model, loss), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-6)
    for name in ("gt", "top1"):  # NaN is left out of the means of an epoch
        assert torch.equal(values[name].isnan(), ~known)
    assert torch.equal(values["agreement"], (logits.argmax(1) == batch["t.logits"].argmax(1)).float())
    # A batch without labelled clips, in a store that has some.
    values = objective(batch | {"label": torch.full((6,), -1)})
    torch.testing.assert_close(values["loss"], 0.6 * values["kd"] + 0.3 * values["l1"])


def test_clips_that_a_process_only_looks_at_do_not_count():
    _, objective, batch = teaching([0, -1, 2, -1, -1, 3])
    share = batch | {"weight": torch.tensor([1.0, 1, 1, 1, 0, 0])}
    gt = objective(share)["gt"]
    rest = objective(share)["loss"] - objective.settings.alpha * objective(share)["kd"] - objective(share)["l1"]
    torch.testing.assert_close(rest[[0, 2]], (1 - 0.95) * gt[[0, 2]] * 4 / 2, rtol=1e-3, atol=1e-4)


def test_a_student_learns_without_any_label():
    store, model = Store(32), small()
    store.labels = np.full(32, -1)
    history = distill(model, store, teacher="t", **FAST)
    assert list(history[0])[:4] == ["loss", "kd", "l1", "agreement"] and not {"gt", "top1"} & set(history[0])
    assert history[0]["loss"] == pytest.approx(0.95 * history[0]["kd"] + history[0]["l1"], rel=1e-5)
    assert history[-1]["agreement"] > history[0]["agreement"]
    fresh = Store(32, seed=5)  # its labels are what the teacher says
    assert evaluate(model, fresh, **QUIET).top1 >= 0.9


def test_a_part_of_the_labels_is_enough_to_train_on():
    store, model = Store(16), small()
    store.labels[8:] = -1
    history = finetune(model, store, **FAST | {"epochs": 2, "batch_size": 16})
    assert math.isfinite(history[0]["loss"]) and 0 <= history[0]["top1"] <= 1
    torch.manual_seed(0)
    alone = finetune(small(), Store(16), validation=store_of(8), **FAST | {"epochs": 1})
    mixed = finetune(small(), store, validation=store_of(8), **FAST | {"epochs": 1})
    taught = {"teacher": "t", **FAST, "epochs": 1}
    assert 0 <= distill(small(), Store(16), validation=store_of(8), **taught)[0]["validation_top1"] <= 1
    with pytest.raises(EgoDistillError, match="have no label"):
        distill(small(), Store(16), validation=store, **taught)
    assert math.isfinite(mixed[0]["validation_loss"]) and mixed[0].keys() == alone[0].keys()


def store_of(clips):
    return Store(clips, seed=9)


def test_a_loss_of_ones_own_must_have_one_value_per_clip():
    class Matrix(distillation.Distill):
        def feature_loss(self, student, teacher):
            return (student.feature - teacher.feature).abs()

    class Column(distillation.Distill):
        def logit_loss(self, student, teacher):
            return super().logit_loss(student, teacher)[:, None]

    for objective, name in ((Matrix, "l1"), (Column, "kd")):
        with pytest.raises(EgoDistillError, match=rf"the objective returned '{name}' with shape \[8, \d+\]"):
            distill(small(), Store(8), teacher="t", objective=objective, **FAST | {"batch_size": 8})


@pytest.mark.parametrize(
    "loss", [distillation.feature_loss, functools.partial(distillation.distillation_loss, tau=1.0)]
)
def test_outputs_that_would_be_broadcast_are_refused(loss):
    for other in (torch.zeros(1, 20), torch.zeros(4, 1)):
        with pytest.raises(EgoDistillError, match=r"of the student: float32 \[4, 20\], of the teacher: "):
            loss(torch.zeros(4, 20), other)
    with pytest.raises(EgoDistillError, match="tau"):
        distillation.distillation_loss(torch.zeros(4, 20), torch.zeros(4, 20), 0.0)


def test_a_teacher_with_other_classes_is_named():
    store = Store(8)
    store.arrays["t.logits"] = np.zeros((8, 5), np.float32)
    with pytest.raises(EgoDistillError, match=r"logits of the student: .* 4\], of .* 5\]; .*num_classes=5"):
        distill(small(), store, teacher="t", **FAST)


def test_stage_1_freezes_what_it_does_not_train_and_starts_its_predictor_from_the_seed(monkeypatch):
    seen = []

    def train(objective, store, settings):
        trained = {name for name, value in objective.named_parameters() if value.requires_grad}
        seen.append((trained, objective.predictor.layers[0].weight.clone(), settings.seed))
        return []

    monkeypatch.setattr(distillation, "train", train)
    model = small()
    for seed in (3, 3, 4):
        torch.manual_seed(seed + 100)
        state = torch.get_rng_state()
        pretrain_imu(model, Store(8), teacher="t", seed=seed, **QUIET)
        assert torch.equal(state, torch.get_rng_state())
    (trained, first, _), (_, again, _), (_, other, seed) = seen
    assert torch.equal(first, again) and not torch.equal(first, other) and seed == 4
    assert {name.split(".")[1] for name in trained if name.startswith("model.")} == {"imu_encoder", "fusion"}
    assert all(value.requires_grad for value in model.parameters())


def test_a_models_own_losses_are_part_of_training_on_labels():
    class Own(EgoDistill):
        def extra_loss(self, output, batch):
            return {"size": output.logits.square().mean(1), "label": 2.0 * batch["label"]}

    store = Store(6)
    model = Own(4, feature_dim=12, image_encoder="resnet10x4", image_weights=None, frame_size=32, hidden=8).eval()
    batch = {name: torch.from_numpy(value) for name, value in store.arrays.items()}
    batch["label"] = torch.from_numpy(store.labels)
    with torch.no_grad():
        found = distillation.Finetune(model, store)(batch)
        logits = model(batch["frames_1"], batch["imu"]).logits.numpy().astype(np.float64)
    gt = -log_softmax(logits)[np.arange(6), store.labels]
    np.testing.assert_allclose(found["loss"], gt + (logits**2).mean(1) + 2 * store.labels, rtol=1e-4)
    np.testing.assert_allclose(found["label"], 2 * store.labels)
    np.testing.assert_array_equal(found["top1"], logits.argmax(1) == store.labels)


def test_image_features_are_computed_without_dropout_and_the_mode_stays():
    """Some networks of torchvision drop branches at random in training, such as EfficientNet."""
    model, store, settings = (
        small(),
        Store(8),
        PretrainingSettings(device="cpu", precision="fp32", batch_size=3, progress=False),
    )
    model.image_encoder = torch.nn.Sequential(model.image_encoder, torch.nn.Dropout(0.5))
    wanted = distillation.frozen_features(model.eval(), store, "frames_1", settings)
    torch.testing.assert_close(distillation.frozen_features(model.train(), store, "frames_1", settings), wanted)
    assert model.training and model.image_encoder[1].training
    assert wanted.shape == (8, 3, model.image_dim) and not wanted.requires_grad


def test_a_student_of_optional_inputs_has_three_times_the_losses_and_encodes_once(monkeypatch):
    store, settings = Store(6), DistillationSettings(alpha=0.7, beta=0.5, tau=2.0)
    model = small(image_encoder="resnet10x4", hidden=8, optional_inputs=True).eval()
    for stand_in in (model.no_frames, model.no_imu):
        torch.nn.init.normal_(stand_in)
    batch = {name: torch.from_numpy(value) for name, value in store.arrays.items()}
    batch |= {"label": torch.from_numpy(store.labels), "weight": torch.ones(6)}
    given = {
        "both": (batch["frames_1"], batch["imu"]),
        "frames": (batch["frames_1"], None),
        "imu": (None, batch["imu"]),
    }
    calls = []
    for name in ("encode_frames", "encode_imu"):
        encode = getattr(model, name)
        monkeypatch.setattr(model, name, lambda x, encode=encode, name=name: calls.append(name) or encode(x))
    for stage in ("distill", "finetune"):
        objective = distillation.Finetune(model, store)
        if stage == "distill":
            objective = distillation.Distill(model, store, settings, "t")
        calls.clear()
        with torch.no_grad():
            found = objective(batch)
            assert calls == ["encode_frames", "encode_imu"]
            wanted = {}
            for name, inputs in given.items():
                feature, logits = model(*inputs)
                wanted[name] = gt = -logits.log_softmax(1)[range(6), store.labels]
                if stage == "distill":
                    target = (batch["t.logits"] / 2).softmax(1)
                    kd = (target * (target.log() - (logits / 2).log_softmax(1))).sum(1)
                    wanted[name] = 0.7 * kd + 0.3 * gt + 0.5 * (feature - batch["t.feature"]).abs().mean(1)
                if name == "both":
                    torch.testing.assert_close(found["top1"], (logits.argmax(1) == batch["label"]).float())
        total = wanted["both"] + 0.5 * (wanted["frames"] + wanted["imu"])
        torch.testing.assert_close(found["loss"], total, rtol=1e-4, atol=1e-5)
        for name in ("frames", "imu"):
            torch.testing.assert_close(found[f"{name} alone"], wanted[name], rtol=1e-4, atol=1e-5)


def test_a_student_of_optional_inputs_learns_to_do_with_each(tmp_path):
    """The colour tells the pair of classes, head motion which of the two: each alone is right half of the time."""
    store, other = Store(64), Store(64, seed=7)
    model = small(optional_inputs=True, hidden=32)
    held = Store(60, seed=5)
    distill(model, store, teacher="t", calibration=held, out=tmp_path / "s.safetensors", **FAST | {"epochs": 14})
    again = EgoDistill.load(tmp_path / "s.safetensors")
    for one in (model, again):
        top1 = {name: evaluate(one.without(name), other, **QUIET).top1 for name in ("imu", "frames")}
        assert evaluate(one, other, **QUIET).top1 > 0.8
        assert all(0.35 <= value <= 0.75 for value in top1.values()), top1
        pairs = evaluate(one.without("imu"), other, **QUIET).scores.argmax(1) // 2
        assert (pairs.numpy() == other.labels // 2).mean() > 0.9  # frames alone know the pair
        verbs = evaluate(one.without("frames"), other, **QUIET).scores.argmax(1) % 2
        assert (verbs.numpy() == other.labels % 2).mean() > 0.9
    assert {*again.calibration.alone} == {"frames", "imu"} and again.calibration == model.calibration
    assert again.without("imu").calibration.temperature == again.calibration.alone["frames"]
    assert again.calibration.alone["frames"] > again.calibration.temperature  # half of its answers are wrong
    with pytest.raises(EgoDistillError, match="lacks imu; train and save the one that it is a copy of"):
        finetune(model.without("imu"), store, **FAST)


def test_a_batch_norm_that_would_mix_what_a_clip_has_is_no_training_with_optional_inputs():
    class Fusion(torch.nn.Module):
        def __init__(self):
            super().__init__()
            self.norm = torch.nn.BatchNorm1d(12)

        def forward(self, image, motion):
            return self.norm(image[:, :12] + motion[:, :12])

    torch.manual_seed(0)
    small_one = {"image_encoder": "resnet10x4", "image_weights": None, "frame_size": 32, "feature_dim": 12}
    model = EgoDistill(4, optional_inputs=True, fusion=Fusion(), **small_one)
    with pytest.raises(EgoDistillError, match="the fusion network has a batch norm"):
        finetune(model, Store(8), **FAST)


def test_a_forward_of_ones_own_is_no_training_with_optional_inputs():
    class Own(EgoDistill):
        def forward(self, frames=None, imu=None):
            feature, logits = super().forward(frames, imu)
            return Output(feature, -logits)

    torch.manual_seed(0)
    small_one = {"image_encoder": "resnet10x4", "image_weights": None, "frame_size": 32, "feature_dim": 12, "hidden": 8}
    model = Own(4, optional_inputs=True, **small_one)
    for stage in (lambda: distill(model, Store(8), teacher="t", **FAST), lambda: finetune(model, Store(8), **FAST)):
        with pytest.raises(EgoDistillError, match=r"forward\(\) of Own computes something else than its steps"):
            stage()
    assert model.training
