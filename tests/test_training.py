"""The loop: order, resuming, refusals."""

import contextlib
import dataclasses
import json
import math
import re
import shutil
import signal
import subprocess
import sys
import textwrap
import warnings
from pathlib import Path

import numpy as np
import pytest
import torch
from torch import nn
from toys import CLASSES, FAST, QUIET, Named, Store, same, small
from waiting import LIMIT

import egodistill
from egodistill import EgoDistill, EgoDistillError, Output, data, distill, evaluate, finetune, pretrain_imu, training
from egodistill.engine import runtime
from egodistill.engine.calibration import Calibration, calibration_of
from egodistill.support import files
from egodistill.support.errors import NoteWarning

ROOT = Path(egodistill.__file__).parent


@pytest.mark.parametrize(
    ("checkpoint", "log"),
    [
        ("run/out.safetensors.training", "run/out.safetensors.jsonl"),
        ("out.pt", "out.jsonl"),
        ("out", "out.jsonl"),
        ("tau1.0", "tau1.0.jsonl"),
        ("tau1.0.training", "tau1.0.jsonl"),
    ],
)
def test_each_checkpoint_has_a_log_of_its_own(checkpoint, log):
    assert files.log_path(checkpoint) == Path(log)


def test_decay_epochs_are_a_tuple():
    for given in ((2, 3), [2, 3], np.array([2, 3])):
        assert training.Training(decay_epochs=given).decay_epochs == (2, 3)
    assert training.Training(decay_epochs=()).learning_rate_at(49) == 1e-4
    with pytest.raises(EgoDistillError, match=r"decay_epochs .* must be a tuple of epochs, such as \(30, 40\); got 1"):
        training.Training(decay_epochs=1)
    with pytest.raises(EgoDistillError, match=r"decay_epochs .* must be a number, 0 <= decay_epochs; got -1"):
        training.Training(decay_epochs=(2, -1))


def test_augment_is_an_augment():
    with pytest.raises(EgoDistillError, match=r"augment must be an Augment, .*; got \{'crop': 0\.2\}"):
        training.Training(augment={"crop": 0.2})


@pytest.mark.parametrize("seed", [-1, 2**63, 1.5, True])
def test_a_seed_is_one_of_all_generators(seed):
    assert training.Training(seed=2**63 - 1).seed == 2**63 - 1
    with pytest.raises(EgoDistillError, match=rf"seed .* must be a whole number, 0 <= seed < {2**63}; got {seed}"):
        training.Training(seed=seed)


@pytest.mark.parametrize(
    ("make", "words"),
    [
        (lambda x: x, "a Tensor; return a dict of values per clip, with 'loss' in it"),
        (lambda x: {"mine": x}, "values named mine; return a dict"),
        (lambda x: {"loss": x, "mine": 1.0}, "'mine' as a float for a batch of 8 clips; return one value per clip"),
        (lambda x: {"loss": x.mean()}, r"'loss' with shape \[\] for a batch of 8 clips"),
    ],
)
def test_an_objective_of_ones_own_is_told_what_to_return(make, words):
    class Mine(training.Objective):
        def forward(self, batch):
            return make(self.model(batch["imu"].mean(1)).square().mean(1))

    with pytest.raises(EgoDistillError, match="Mine: the record needs a 'stage', the name in messages"):
        Mine(nn.Linear(6, 4), ["imu"], {})
    objective = Mine(nn.Linear(6, 4), ["imu"], {"stage": "mine"})
    with pytest.raises(EgoDistillError, match=f"the objective returned {words}"):
        training.train(objective, Store(8), training.Training(epochs=1, batch_size=8, **QUIET))


def test_an_array_that_an_objective_does_not_read_is_named():
    class Mine(training.Objective):
        def forward(self, batch):
            return {"loss": self.model(batch["imuu"].mean(1)).square().mean(1)}

    objective = Mine(nn.Linear(6, 4), ["imu"], {"stage": "mine"})
    with pytest.raises(EgoDistillError, match="the batch has no 'imuu'; the objective reads imu, label, row, weight"):
        training.train(objective, Store(8), training.Training(epochs=1, batch_size=8, **QUIET))


class Far(training.Objective):
    """Moves a vector to (3, 4); the gradient at 0 is 5 long in total."""

    def __init__(self, store):
        super().__init__(nn.ParameterList([torch.zeros(1), torch.zeros(1)]), ["imu"], {"stage": "far"})

    def forward(self, batch):
        x, y = self.model
        return {"loss": ((x - 3).square() + (y - 4).square()).expand(len(batch["imu"])) / 2}


def test_progress_ends_with_the_clips_that_are_trained_on(capsys):
    """A last batch of one clip is left out."""
    settings = training.Training(epochs=2, batch_size=8, **QUIET | {"progress": True})
    training.train(Far(Store(9)), Store(9), settings)
    assert "far, 2 epochs of 8 clips: 16/16 clips" in capsys.readouterr().err


@pytest.mark.parametrize(("limit", "steps"), [(None, (3.0, 4.0)), (1.0, (0.6, 0.8)), (10.0, (3.0, 4.0))])
def test_gradients_are_clipped_to_a_norm_of_all_of_them(limit, steps):
    class Descent(Far):
        def optimizer(self, parameters, settings):
            return torch.optim.SGD(parameters, lr=settings.learning_rate)

    objective = Descent(Store(8))
    settings = training.Training(epochs=1, batch_size=8, learning_rate=0.5, decay_epochs=(), clip_norm=limit, **QUIET)
    training.train(objective, Store(8), settings)
    torch.testing.assert_close(torch.cat([*objective.model]).detach(), 0.5 * torch.tensor(steps))


def test_an_objective_has_an_optimizer_of_its_own_and_an_end_of_an_epoch(tmp_path):
    """Groups keep their rates below the schedule; what an epoch's end adds is in the history. A killed run goes on."""
    calls = []

    class Grouped(Far):
        def optimizer(self, parameters, settings):
            slow, fast = parameters
            groups = [{"params": [slow], "lr": settings.learning_rate / 10}, {"params": [fast]}]
            return torch.optim.SGD(groups, lr=settings.learning_rate, momentum=0.9)

        def end_epoch(self, row):
            row["distance"] = float((torch.cat([*self.model]).detach() - torch.tensor([3.0, 4.0])).norm())

    def run(objective, **change):
        settings = training.Training(epochs=3, batch_size=4, learning_rate=0.1, decay_epochs=(2,), **QUIET | change)
        return training.train(objective, Store(8), settings), torch.cat([*objective.model]).detach()

    history, found = run(Grouped(Store(8)))
    assert [row["distance"] for row in history] == sorted((row["distance"] for row in history), reverse=True)
    speed, at = np.zeros(2), np.zeros(2)
    for rate in (0.1, 0.1, 0.1, 0.1, 0.01, 0.01):
        speed = 0.9 * speed + at - (3, 4)
        at = at - rate * np.array([0.1, 1.0]) * speed
    np.testing.assert_allclose(found, at, rtol=1e-5)
    stopped = Grouped(Store(8))
    stopped.register_forward_pre_hook(
        lambda *_: calls.append(1) if len(calls) < 4 else (_ for _ in ()).throw(OSError())
    )
    with pytest.raises(OSError):
        run(stopped, checkpoint=tmp_path / "c.pt", checkpoint_seconds=0.0)
    again, same = run(Grouped(Store(8)), checkpoint=tmp_path / "c.pt")
    assert torch.equal(same, found) and [row["distance"] for row in again] == [row["distance"] for row in history]


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
        finetune(Probe(), store, **FAST | {"epochs": 2, "seed": seed} | change)
        return [list(row) for row in rows]

    first = run(0)
    assert first == run(0) and first != run(1) and first[:2] != first[2:]
    flat = [value for row in first[:2] for value in row]
    assert sorted(flat) == sorted(store.arrays["imu"][:, 0, 0].tolist())  # each clip once an epoch


class Table(nn.Module):
    """Scores that are a table of its own, one row per class, whatever it sees."""

    inputs = ("imu",)

    def __init__(self):
        super().__init__()
        self.scores = nn.Parameter(torch.zeros(4))

    def forward(self, imu):
        return Output(imu.mean(1), self.scores.expand(len(imu), 4))


def chosen_labels(store, labels):
    store.labels = np.array(labels)
    return store


def test_clips_of_the_test_split_are_not_trained_on_in_silence():
    store = Store(16)
    for splits, told in ((["test", "train"], True), (["train"], False), (["test"], False)):
        store.splits = splits
        with warnings.catch_warnings(record=True) as seen:
            warnings.simplefilter("always")
            finetune(Table(), store, **FAST | {"epochs": 1})
        found = [one for one in seen if issubclass(one.category, NoteWarning)]
        assert [("of the splits test and train" in str(one.message), one.filename) for one in found] == (
            [(True, __file__)] * told
        )


@pytest.mark.parametrize("saved", [False, True])
@pytest.mark.parametrize("stop_after", [None, 1, 2, 3])
def test_the_best_epoch_on_other_clips_is_kept(tmp_path, monkeypatch, stop_after, saved):
    """The right answers of the validation clips come and go with the scores, which this test sets after each epoch.

    The run is killed before or after the checkpoint of an epoch is written.
    """
    train, other = Store(8), chosen_labels(Store(6), [0, 1, 1, 1, 2, 2])
    # 1, 3, 2 and 3 of 6 right: the first of the two best is kept.
    after_epochs, best = [[1.0, 0, 0, 0], [0, 1.0, 0, 0], [0, 0, 1.0, 0], [0, 2.0, 0, 0]], 2

    class Broken(Exception):
        pass

    def validate(loop, clips):
        loop.objective.model.scores.data.copy_(torch.tensor(after_epochs[loop.epoch - 1]))  # in place, as AdamW does
        found = plain(loop, clips)
        if not saved and stop.pop(loop.epoch, None):
            raise Broken
        return found

    def save(loop):
        write(loop)
        if saved and not loop.step and stop.pop(loop.epoch, None):
            raise Broken

    plain, write, stop = training.TrainingLoop.validate, training.TrainingLoop.save, {stop_after: True}
    monkeypatch.setattr(training.TrainingLoop, "validate", validate)
    monkeypatch.setattr(training.TrainingLoop, "save", save)
    options = FAST | {"epochs": 4, "checkpoint": tmp_path / "run", "checkpoint_seconds": 0.0}
    model = Table()
    if stop_after:
        with pytest.raises(Broken):
            finetune(model, train, validation=other, **options)
        model = Table()
    history = finetune(model, train, validation=other, **options)
    assert [row["validation_top1"] for row in history] == pytest.approx([1 / 6, 3 / 6, 2 / 6, 3 / 6])
    assert history[1]["validation_loss"] == pytest.approx(float(torch.tensor([0, 1.0, 0, 0]).logsumexp(0)) - 0.5)
    assert model.scores.tolist() == after_epochs[best - 1]
    again = Table()
    assert finetune(again, train, validation=other, **options) == history  # a finished run
    assert again.scores.tolist() == after_epochs[best - 1]
    with pytest.raises(EgoDistillError, match="validation clips was 6 and is now None"):
        finetune(Table(), train, **options)


def test_without_an_accuracy_the_lowest_loss_counts_and_clips_must_be_there():
    class Distance(training.Objective):
        def forward(self, batch):
            return {"loss": (self.model.scores - batch["label"][:, None]).square().mean(1)}

    objective = Distance(Table(), ["imu"], {"stage": "distance"})
    settings = training.Training(epochs=3, batch_size=4, learning_rate=0.5, schedule="cosine", progress=False)
    train, other = chosen_labels(Store(8), [3] * 8), chosen_labels(Store(4), [0] * 4)
    history = training.train(objective, train, settings, other)
    losses = [row["validation_loss"] for row in history]
    assert losses == sorted(losses) and losses[0] < losses[-1]  # Each step towards 3 is one away from 0.
    assert objective.model.scores.square().mean().item() == pytest.approx(losses[0])
    with pytest.raises(EgoDistillError, match="validation has no clips"):
        training.train(objective, train, settings, Store(0))


def test_validation_clips_must_be_others_of_the_same_classes_with_labels_and_finite_values():
    train, options = Named(8), FAST | {"epochs": 1}
    with pytest.raises(EgoDistillError, match="8 of the validation clips are trained on, such as clip-0"):
        finetune(Table(), train, validation=train, **options)
    other = Store(6)
    other.class_names = ["close", "open", "put", "throw"]
    with pytest.raises(EgoDistillError, match=r"validation has the classes .*throw.* with the same class_names"):
        finetune(Table(), train, validation=other, **options)
    with pytest.raises(EgoDistillError, match="1 of 6 clips have no label"):
        finetune(Table(), train, validation=chosen_labels(Store(6), [0, 1, 2, 3, 0, -1]), **options)

    class Lost(training.Objective):
        def forward(self, batch):
            loss = self.model.scores.sum().square() + 0.0 * batch["label"]
            return {"loss": loss if self.training else loss * math.nan}

    objective = Lost(Table(), ["imu"], {"stage": "lost"})
    with pytest.raises(
        EgoDistillError, match="lost: the loss or accuracy on the validation clips is nan after epoch 1"
    ):
        training.train(objective, Store(8), training.Training(epochs=1, batch_size=4, progress=False), Store(4))


SCRIPT = """
    import os, signal, sys
    sys.path[:0] = [{root!r}, {root!r} + "/tests"]
    import torch
    torch.set_num_threads(1)
    signal.signal(signal.SIGINT, signal.default_int_handler)  # Ignored in the background of a shell.
    import egodistill, toys
    stage, out, kill_at, kill = sys.argv[1], sys.argv[2], int(sys.argv[3]), int(sys.argv[4])
    model, store = toys.small(), toys.Store(24)
    settings = toys.QUIET | dict(epochs=4, batch_size=8, learning_rate=1e-3, decay_epochs=(2,), precision="fp32",
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
        settings |= dict(validation=toys.Store(8, seed=1), augment=egodistill.Augment(crop=0.3, jitter=0.2))
        egodistill.finetune(model, store, **settings)
    elif stage == "distill":
        egodistill.distill(model, store, teacher="t", **settings)
    else:
        egodistill.pretrain_imu(model, store, teacher="t", **settings)
    model.save(out)
    print(count[0])
"""


@pytest.mark.slow("twelve processes that train")
@pytest.mark.parametrize("stage", ["finetune", "pretrain_imu", "distill"])
def test_a_killed_run_ends_with_the_same_bits(tmp_path, stage):
    script = tmp_path / "run.py"
    script.write_text(textwrap.dedent(SCRIPT.format(root=str(ROOT))))

    def run(out, kill_at, kill=signal.SIGKILL):
        command = [sys.executable, str(script), stage, str(tmp_path / out), str(kill_at), str(int(kill))]
        return subprocess.run(command, cwd=ROOT, capture_output=True, text=True, timeout=LIMIT)

    whole = run("whole.safetensors", 0)
    assert whole.returncode == 0 and int(whole.stdout) == 12, whole.stderr
    assert run("killed.safetensors", 1).returncode == -signal.SIGKILL  # before there is a checkpoint
    assert run("killed.safetensors", 5).returncode == -signal.SIGKILL  # in the second epoch
    stopped = run("killed.safetensors", 4, signal.SIGINT)  # and Ctrl-C
    assert stopped.returncode == -signal.SIGINT and "KeyboardInterrupt" in stopped.stderr
    rest = run("killed.safetensors", 0)
    assert rest.returncode == 0 and int(rest.stdout) == 12 - 4 - 3, rest.stderr
    assert same(EgoDistill.load(tmp_path / "whole.safetensors"), EgoDistill.load(tmp_path / "killed.safetensors"))
    histories = [(tmp_path / f"{name}.safetensors.jsonl").read_text().splitlines() for name in ("whole", "killed")]
    for a, b in zip(*histories, strict=True):
        a, b = json.loads(a), json.loads(b)
        assert a["loss"] == b["loss"] and a["epoch"] == b["epoch"]
    assert int(run("killed.safetensors", 0).stdout) == 0  # a finished run is not done again


@pytest.mark.parametrize(
    ("stage", "change", "told"),
    [
        (distill, {"tau": 2.0}, r"tau was 1\.0 and is now 2\.0"),
        (distill, {"l1_reduction": "sum"}, "l1_reduction was 'mean' and is now 'sum'"),
        (distill, {"augment": egodistill.Augment(crop=0.3)}, r"augment\.crop was 0\.0 and is now 0\.3"),
        (pretrain_imu, {"nce_tau": 0.2}, r"nce_tau was 0\.1 and is now 0\.2"),
        (pretrain_imu, {"learning_rate": 1e-3}, r"learning_rate was 0\.002 and is now 0\.001"),
    ],
)
@pytest.mark.parametrize("finished", [True, False])
def test_a_checkpoint_of_another_run_is_refused(tmp_path, monkeypatch, stage, change, told, finished):
    settings = FAST | {"epochs": 2, "checkpoint": tmp_path / "c.pt"}
    if not finished:
        monkeypatch.setattr(training.TrainingLoop, "end_epoch", stop_after_the_first(training.TrainingLoop.end_epoch))
    with contextlib.suppress(KeyboardInterrupt):
        stage(small(), Store(8), teacher="t", **settings)
    with pytest.raises(EgoDistillError, match=rf"c\.pt.*{told}"):
        stage(small(), Store(8), teacher="t", **settings | change)


def test_a_finished_checkpoint_has_no_optimizer(tmp_path, monkeypatch):
    """The file that a finished training leaves is as large as the model; it is enough to return the same result."""
    path, sizes = tmp_path / "c.pt", []
    save = training.TrainingLoop.save

    def measured(self):
        save(self)
        sizes.append(path.stat().st_size)

    monkeypatch.setattr(training.TrainingLoop, "save", measured)
    model = small()
    history = finetune(model, Store(8), **FAST | {"epochs": 2, "checkpoint": path})
    model.save(tmp_path / "model.safetensors")
    assert sizes[0] > 2.5 * (tmp_path / "model.safetensors").stat().st_size > 2.4 * sizes[1] > 0
    again = small()
    assert finetune(again, Store(8), **FAST | {"epochs": 2, "checkpoint": path}) == history
    assert same(model, again)


def names(folder):
    return sorted(file.name for file in folder.iterdir())


def no_step(monkeypatch):
    return monkeypatch.setattr(training.TrainingLoop, "run_step", lambda *_: pytest.fail("trained again"))


def test_progress_names_epoch_and_accuracy_and_where_a_run_continues(tmp_path, monkeypatch, capsys):
    store, other = Store(8), chosen_labels(Store(4), [0] * 4)
    settings = FAST | {"epochs": 3, "batch_size": 4, "progress": True, "checkpoint": tmp_path / "c.pt"}
    settings |= {"learning_rate": 1e-9}
    with monkeypatch.context() as patch:
        patch.setattr(training.TrainingLoop, "end_epoch", stop_after_the_first(training.TrainingLoop.end_epoch))
        with pytest.raises(KeyboardInterrupt):
            finetune(Table(), store, validation=other, **settings)
    line = r"^finetune, 3 epochs of 8 clips: 8/24 clips, .* left, epoch 1 of 3, loss 1\.386$"
    assert re.search(line, capsys.readouterr().err, re.MULTILINE)
    history = finetune(Table(), store, validation=other, **settings)
    printed = capsys.readouterr().err
    assert "c.pt: continuing from epoch 2\n" in printed
    score = 100 * history[-1]["validation_top1"]
    assert printed.endswith(f"0:00 left, epoch 3 of 3, loss 1.386, validation {score:.1f} %\n")
    finetune(Table(), store, validation=other, **settings)
    assert capsys.readouterr().err == ""  # finished


def test_a_model_file_is_enough_to_know_a_finished_training(tmp_path, monkeypatch):
    """Its checkpoint is gone; the same call changes nothing, another one is refused."""
    out = tmp_path / "s.safetensors"
    settings = FAST | {"epochs": 2, "out": out}
    model = small()
    history = finetune(model, Store(8), **settings)
    for row in history:
        del row["clips_per_second"], row["loader_share"]
    assert names(tmp_path) == ["s.safetensors", "s.safetensors.jsonl"] and same(EgoDistill.load(out), model)
    content = out.read_bytes()
    with monkeypatch.context() as patch:
        no_step(patch)
        again = small()
        assert finetune(again, Store(8), **settings) == history and same(again, model)
        assert finetune(small(), Store(8), **settings, overwrite=True) == history
        for model, change, told in (
            (small(), {"epochs": 3}, "epochs was 2 and is now 3"),
            (small(seed=1), {}, "fingerprint of the start weights"),
            (small(tolerance=0.1), {}, "model.tolerance was 0.0 and is now 0.1"),
        ):
            with pytest.raises(
                EgoDistillError, match=rf"s\.safetensors: was begun with other settings: .*{told}.*--overwrite"
            ):
                finetune(model, Store(8), **settings | change)
        frozen = small()
        frozen.image_encoder.requires_grad_(False)
        with pytest.raises(EgoDistillError, match=r"trained was \d+ and is now \d+"):
            finetune(frozen, Store(8), **settings)
    assert out.read_bytes() == content and names(tmp_path) == ["s.safetensors", "s.safetensors.jsonl"]


def test_another_training_takes_the_place_of_a_finished_one_only_if_asked(tmp_path, monkeypatch, capsys):
    """... which stays until the new one has ended, and the new one continues without being asked again."""
    out = tmp_path / "s.safetensors"
    settings = FAST | {"epochs": 2, "out": out, "keep_checkpoint": True}
    finetune(small(), Store(8), **settings)
    assert names(tmp_path) == ["s.safetensors", "s.safetensors.jsonl", "s.safetensors.training"]
    first, other = out.read_bytes(), settings | {"learning_rate": 1e-3}
    with pytest.raises(EgoDistillError, match=r"learning_rate was .* and is now 0\.001.*--overwrite"):
        finetune(small(), Store(8), **other)
    with monkeypatch.context() as patch:
        patch.setattr(training.TrainingLoop, "end_epoch", stop_after_the_first(training.TrainingLoop.end_epoch))
        with pytest.raises(KeyboardInterrupt):
            finetune(small(), Store(8), **other, overwrite=True)
    assert "is now 0.001. Training anew" in capsys.readouterr().err
    assert out.read_bytes() == first
    with monkeypatch.context() as patch:
        no_step(patch)
        finetune(small(), Store(8), **settings)  # the first is still finished
    model = small()
    finetune(model, Store(8), **other | {"keep_checkpoint": False})
    assert same(EgoDistill.load(out), model) and names(tmp_path) == ["s.safetensors", "s.safetensors.jsonl"]
    finetune(
        small(), Store(8), **FAST | {"epochs": 2, "learning_rate": 1e-3, "out": tmp_path / "undisturbed.safetensors"}
    )
    assert out.read_bytes() == (tmp_path / "undisturbed.safetensors").read_bytes()


def test_a_finished_training_leaves_the_checkpoint_of_another_one(tmp_path, monkeypatch, capsys):
    out = tmp_path / "s.safetensors"
    settings = FAST | {"epochs": 2, "out": out}
    finetune(small(), Store(8), **settings)
    other = settings | {"learning_rate": 1e-3}
    with monkeypatch.context() as patch:
        patch.setattr(training.TrainingLoop, "end_epoch", stop_after_the_first(training.TrainingLoop.end_epoch))
        with pytest.raises(KeyboardInterrupt):
            finetune(small(), Store(8), **other, overwrite=True)
    left = (tmp_path / "s.safetensors.training").read_bytes()
    finetune(small(), Store(8), **settings)  # finished
    said = r"s\.safetensors\.training: stays; it is of an interrupted training with other settings: "
    said += r"learning_rate was 0\.001"
    assert re.search(said, capsys.readouterr().err) and (tmp_path / "s.safetensors.training").read_bytes() == left
    finetune(small(), Store(8), **other)
    assert names(tmp_path) == ["s.safetensors", "s.safetensors.jsonl"]
    finetune(small(), Store(8), **other | {"out": tmp_path / "undisturbed.safetensors"})
    assert out.read_bytes() == (tmp_path / "undisturbed.safetensors").read_bytes()


@pytest.mark.parametrize("content", ["model", "text"])
def test_a_file_from_elsewhere_is_not_replaced(tmp_path, content):
    out, settings = tmp_path / "s.safetensors", FAST | {"epochs": 1}
    if content == "model":
        small().save(out)
    else:
        out.write_text("mine")
    before = out.read_bytes()
    with pytest.raises(EgoDistillError, match=r"s\.safetensors"):
        finetune(small(), Store(8), out=out, **settings)
    assert out.read_bytes() == before and names(tmp_path) == ["s.safetensors"]
    model = small()
    finetune(model, Store(8), out=out, overwrite=True, **settings)
    assert same(EgoDistill.load(out), model)


def test_a_checkpoint_is_not_the_result(tmp_path, monkeypatch):
    """Its file is removed at the end."""
    monkeypatch.chdir(tmp_path)
    small().save("s.safetensors")
    before = Path("s.safetensors").read_bytes()
    with pytest.raises(EgoDistillError, match=r"s\.pt: the name of a model file must end in \.safetensors"):
        finetune(small(), Store(8), out="s.pt", **FAST)
    assert [*Path().iterdir()] == [Path("s.safetensors")]  # before the first epoch
    for checkpoint in ("s.safetensors", tmp_path / "s.safetensors"):
        with pytest.raises(EgoDistillError, match=r"s\.safetensors: the checkpoint of a training is no model file"):
            finetune(small(), Store(8), out="s.safetensors", checkpoint=checkpoint, overwrite=True, **FAST)
    assert Path("s.safetensors").read_bytes() == before


def test_a_training_that_ended_before_its_model_was_written_writes_it(tmp_path, monkeypatch):
    """As trainings of version 0.4 leave it, too, whose models do not say how they were trained."""
    out, settings = tmp_path / "s.safetensors", FAST | {"epochs": 1}
    model = small()
    finetune(model, Store(8), checkpoint=tmp_path / "s.safetensors.training", **settings)
    no_step(monkeypatch)
    for plain in (False, True):
        if plain:
            del model.trained_with
            model.save(out)
        finetune(small(), Store(8), out=out, keep_checkpoint=True, **settings)
        assert same(EgoDistill.load(out), model) and EgoDistill.load(out).trained_with
    finetune(small(), Store(8), out=out, **settings)
    assert not (tmp_path / "s.safetensors.training").exists()


def test_one_checkpoint_is_for_one_training_at_a_time(tmp_path):
    path = tmp_path / "c.pt"
    with (
        files.work_lock(path, "busy"),
        pytest.raises(EgoDistillError, match=r"c\.pt: another process is training"),
    ):
        finetune(small(), Store(8), **FAST | {"epochs": 2, "checkpoint": path})
    assert list(tmp_path.iterdir()) == []
    finetune(small(), Store(8), **FAST | {"epochs": 1, "checkpoint": path})
    assert sorted(file.name for file in tmp_path.iterdir()) == ["c.jsonl", "c.pt"]


def test_the_log_of_a_training_takes_the_place_of_a_link(tmp_path):
    (tmp_path / "thesis").write_text("mine")
    (tmp_path / "c.jsonl").symlink_to(tmp_path / "thesis")
    finetune(small(), Store(8), **FAST | {"epochs": 1, "checkpoint": tmp_path / "c.pt"})
    assert (tmp_path / "thesis").read_text() == "mine" and "epoch" in (tmp_path / "c.jsonl").read_text()


def test_the_log_of_a_training_replaces_no_other_file(tmp_path):
    settings, log = FAST | {"epochs": 1, "out": tmp_path / "s.safetensors"}, tmp_path / "s.safetensors.jsonl"
    for content in ("precious\n", "[1]\n", '{"loss": 1}\n', "5\n"):
        log.write_text(content)
        with pytest.raises(EgoDistillError, match=r"s\.safetensors\.jsonl: .*not the log .*move it"):
            finetune(small(), Store(8), **settings)
        assert log.read_text() == content and names(tmp_path) == ["s.safetensors.jsonl"]
    for content in ("", '{"epoch": 1}\n'):
        log.write_text(content)
        (tmp_path / "s.safetensors").unlink(missing_ok=True)
        finetune(small(), Store(8), **settings)
        assert "loss" in log.read_text()


def test_a_training_of_several_processes_needs_an_address(monkeypatch):
    for name, value in {"RANK": "1", "WORLD_SIZE": "4"}.items():
        monkeypatch.setenv(name, value)
    monkeypatch.delenv("MASTER_ADDR", raising=False)
    with pytest.raises(EgoDistillError, match="RANK=1 and WORLD_SIZE=4 are set, but not MASTER_ADDR: start all"):
        finetune(small(), Store(8), **FAST | {"epochs": 1})


def test_the_history_has_null_where_there_is_no_value(tmp_path):
    class Objective(training.Objective):
        def forward(self, batch):
            logits = self.model(*(batch[name] for name in self.reads)).logits
            return {"loss": logits.square().mean(1), "never": torch.full((len(logits),), math.nan)}

    objective = Objective(small(), ["frames_1", "imu"], {"stage": "test"})
    settings = egodistill.Training(epochs=1, batch_size=8, checkpoint=tmp_path / "c.pt", **QUIET)
    (row,) = training.train(objective, Store(16), settings)
    assert math.isnan(row["never"])
    text = (tmp_path / "c.jsonl").read_text()
    assert json.loads(text)["never"] is None and "NaN" not in text


@pytest.mark.parametrize("finished", [True, False])
def test_other_start_weights_are_refused(tmp_path, monkeypatch, finished):
    settings = FAST | {"epochs": 2, "checkpoint": tmp_path / "c.pt"}
    if not finished:
        monkeypatch.setattr(training.TrainingLoop, "end_epoch", stop_after_the_first(training.TrainingLoop.end_epoch))
    with contextlib.suppress(KeyboardInterrupt):
        finetune(small(), Store(8), **settings)
    monkeypatch.undo()
    with pytest.raises(
        EgoDistillError, match=r"c\.pt.*fingerprint of the start weights was '\w+' and is now.*same model"
    ):
        finetune(small(seed=1), Store(8), **settings)
    assert len(finetune(small(), Store(8), **settings)) == 2


def test_other_content_of_the_store_is_refused(store, tmp_path):
    """Of a clip store: other clips, and other outputs of the teacher."""
    shutil.copytree(store.path, tmp_path / "s")
    clips = data.ClipStore(tmp_path / "s")
    clips = clips.select(clips.labels >= 0)
    for name, shape in {"t.feature": 12, "t.logits": len(clips.class_names)}.items():
        clips.add(name, (shape,), "float32")
        clips.write(name, slice(None), np.ones((len(clips), shape)))

    def run(some=clips):
        torch.manual_seed(0)
        encoder = {"image_encoder": "resnet10x8", "image_weights": None, "frame_size": 40}
        model = EgoDistill(len(clips.class_names), feature_dim=12, hidden=32, **encoder)
        settings = FAST | {"epochs": 1, "batch_size": 4}
        return distill(model, some, teacher="t", **settings, checkpoint=tmp_path / "c.pt")

    assert run()[0]["loss"] == run()[0]["loss"]
    with pytest.raises(EgoDistillError, match="fingerprint of the clips of the store was"):
        run(clips.select(slice(None, None, -1)))
    clips.write("t.logits", [3], np.zeros((1, len(clips.class_names))))
    with pytest.raises(EgoDistillError, match=r"fingerprint of the outputs t\.logits was") as error:
        run()
    assert "t.feature" not in str(error.value)


def stop_after_the_first(end_epoch):
    def stop(loop, *spent):
        end_epoch(loop, *spent)
        raise KeyboardInterrupt

    return stop


@pytest.mark.slow("bf16, which most processors emulate")
def test_precision_is_chosen_when_a_training_starts_and_written_down(tmp_path, monkeypatch, capsys):
    """Settings can be built where there is no device yet."""
    monkeypatch.setattr(runtime, "pick_device", lambda *_: pytest.fail("asked for the device"))
    settings = training.Training(precision="auto", epochs=1, batch_size=8, checkpoint=tmp_path / "c.pt", **QUIET)
    assert settings.precision == "auto" and settings.record()["precision"] == "auto"
    monkeypatch.undo()
    monkeypatch.setattr(runtime, "pick_training_precision", lambda *_: ("bf16", "the test says so"))
    finetune(small(), Store(16), dataclasses.replace(settings, progress=True))
    assert capsys.readouterr().err.count("Training in bf16, because the test says so.") == 1
    assert torch.load(tmp_path / "c.pt", weights_only=True)["about"]["precision"] == "bf16"
    assert json.loads((tmp_path / "c.jsonl").read_text())["precision"] == "bf16"
    monkeypatch.setattr(runtime, "pick_training_precision", lambda *_: ("fp32", "this one has no AMX"))
    finetune(small(), Store(16), settings)  # a finished run, on another machine
    assert not capsys.readouterr().err
    half = dataclasses.replace(settings, precision="fp16", checkpoint=tmp_path / "half.pt")
    finetune(small(), Store(16), half)
    finetune(small(), Store(16), dataclasses.replace(half, precision="auto"))  # in what it began with, too
    assert json.loads((tmp_path / "half.jsonl").read_text())["precision"] == "fp16"
    with pytest.raises(EgoDistillError, match="precision was 'bf16' and is now 'fp32'"):
        finetune(small(), Store(16), dataclasses.replace(settings, precision="fp32"))
    with pytest.raises(EgoDistillError, match=r"float64 .* do not mix with bf16"):
        finetune(small().double(), Store(16), dataclasses.replace(settings, precision="bf16", checkpoint=None))


@pytest.mark.slow("bf16, which most processors emulate")
@pytest.mark.parametrize("stage", ["finetune", "pretrain_imu", "distill"])
def test_a_run_continues_in_the_precision_in_which_it_began(stage, tmp_path, monkeypatch, capsys):
    """On a machine where "auto" is another one, too, which is then said."""

    def run(epochs_before_it_stops=None):
        model, seen = small(), set()
        model.imu_encoder.register_forward_hook(lambda layer, inputs, output: seen.add(output.dtype))
        settings = FAST | {"epochs": 2, "checkpoint": tmp_path / "c.pt", "precision": "auto"}
        call = {"finetune": finetune, "pretrain_imu": pretrain_imu, "distill": distill}[stage]
        with monkeypatch.context() as patch:
            if epochs_before_it_stops:
                patch.setattr(training.TrainingLoop, "end_epoch", stop_after_the_first(training.TrainingLoop.end_epoch))
            elif epochs_before_it_stops == 0:
                patch.setattr(training.TrainingLoop, "end_epoch", lambda *_: (_ for _ in ()).throw(KeyboardInterrupt))
            with contextlib.suppress(KeyboardInterrupt):
                call(model, Store(16), **settings | ({} if stage == "finetune" else {"teacher": "t"}))
        return seen, capsys.readouterr().err

    def begin_in(precision, reason):
        monkeypatch.setattr(runtime, "pick_training_precision", lambda *_: (precision, reason))

    begin_in("bf16", "it has AMX")
    assert run(0) == ({torch.bfloat16}, "") and not (tmp_path / "c.pt").exists()  # nothing to continue
    assert run(1) == ({torch.bfloat16}, "")
    begin_in("fp32", "it has no AMX")
    seen, said = run()
    assert seen == {torch.bfloat16}
    assert (
        f"{tmp_path / 'c.pt'}: continuing in bf16, as it began; here it would begin in fp32, because it has no AMX"
        in said
    )


def test_a_run_that_continues_on_another_machine_says_that_its_bits_may_differ(tmp_path, monkeypatch, capsys):
    settings = FAST | {"epochs": 3, "checkpoint": tmp_path / "c.pt"}

    def run(stops=True):
        with monkeypatch.context() as patch, contextlib.suppress(KeyboardInterrupt):
            if stops:
                patch.setattr(training.TrainingLoop, "end_epoch", stop_after_the_first(training.TrainingLoop.end_epoch))
            finetune(small(), Store(8), **settings)
        return capsys.readouterr().err

    run()
    here = runtime.numerics_record(torch.device("cpu"))
    assert torch.load(tmp_path / "c.pt", weights_only=True)["bits"] == here | {"processes": 1}
    assert run() == ""
    monkeypatch.setattr(runtime, "numerics_record", lambda device: here | {"threads": 64, "torch": "9.9"})
    said = run(stops=False)
    assert (
        f"c.pt: torch was {torch.__version__!r} and is now '9.9'; threads was {here['threads']} and is now 64" in said
    )
    assert "may differ in their last bits" in said
    assert run(stops=False) == ""  # finished
    content = torch.load(tmp_path / "c.pt", weights_only=True)
    del content["bits"]  # an older version did not write it down
    torch.save(content, tmp_path / "c.pt")
    assert run(stops=False) == ""


@pytest.mark.slow("fp16, which all processors emulate")
@pytest.mark.parametrize("precision", ["bf16", "fp16"])
def test_mixed_precision_keeps_weights_losses_and_optimizer_in_fp32(precision, tmp_path, monkeypatch):
    """With fp16, gradients are scaled, and a step whose gradients overflow is left out; the scale is kept."""
    model, seen = small(), []
    model.classifier.register_forward_hook(lambda layer, inputs, output: seen.append(output.dtype))
    settings = training.Training(precision=precision, epochs=1, batch_size=8, checkpoint=tmp_path / "c.pt", **QUIET)
    monkeypatch.setattr(training.TrainingLoop, "end_epoch", stop_after_the_first(training.TrainingLoop.end_epoch))
    settings = dataclasses.replace(settings, epochs=2)
    with pytest.raises(KeyboardInterrupt):
        finetune(model, Store(16), settings)
    content = torch.load(tmp_path / "c.pt", weights_only=True)
    assert set(seen) == {runtime.DTYPES[precision]}
    state = content["optimizer"]["state"][0]
    tensors = [*content["weights"].values(), state["exp_avg"], state["exp_avg_sq"]]
    assert {x.dtype for x in tensors if x.is_floating_point()} == {torch.float32}
    assert content["scaler"] == {} if precision == "bf16" else content["scaler"]["scale"] == 2.0**16
    monkeypatch.undo()
    if precision == "fp16":
        content["scaler"] |= {"scale": 2.0**40}  # Scaled gradients overflow.
        torch.save(content, tmp_path / "c.pt")
        history = finetune(small(), Store(16), settings)
        after = torch.load(tmp_path / "c.pt", weights_only=True)["weights"]
        trained = dict(model.named_parameters())
        assert len(history) == 2
        assert all(torch.equal(after[f"model.{name}"], content["weights"][f"model.{name}"]) for name in trained)


def test_another_list_of_classes_is_refused(tmp_path):
    """By the checkpoint of a run, and by a student that a file holds."""
    store, other = Store(16), Store(16)
    other.class_names = [*CLASSES[:3], "wash"]
    settings = FAST | {"epochs": 1, "checkpoint": tmp_path / "c.pt"}
    model = small()
    distill(model, store, teacher="t", **settings)
    with pytest.raises(EgoDistillError, match=r"c\.pt.*class_names was .*'take'.* and is now .*'wash'"):
        distill(small(), other, teacher="t", **settings)
    model.save(tmp_path / "student.safetensors")
    for use in (
        lambda m: distill(m, other, teacher="t", **FAST),
        lambda m: evaluate(m, other, **QUIET),
    ):
        with pytest.raises(EgoDistillError, match=r"differ first at class 3: .*take.* and .*wash"):
            use(EgoDistill.load(tmp_path / "student.safetensors"))


def test_a_loss_that_is_not_finite_names_step_clips_and_the_last_checkpoint(tmp_path):
    store, path = Named(16), tmp_path / "c.pt"
    order = torch.randperm(
        16, generator=torch.Generator().manual_seed(training.fold_seed(0, 1))
    ).tolist()  # of the second epoch
    read = store.read

    def spoilt(name, index):
        array = read(name, index)
        if name == "imu" and index.tolist() == order[8:]:
            array[2, ::2] = 1e38  # finite, but too large for the sums of a loss
        return array

    store.read = spoilt
    with pytest.raises(EgoDistillError) as error:
        finetune(small(), store, **FAST | {"checkpoint": path})
    assert "in epoch 1, step 1" in str(error.value) and f"{path}, is kept" in str(error.value)
    assert f"({'clips ' + ', '.join(f'clip-{row}' for row in order[8:13])} and 3 more)" in str(error.value)
    content = torch.load(path, weights_only=True)
    assert content["state"]["epoch"] == 1 and all(v.isfinite().all() for v in content["weights"].values())


@pytest.mark.parametrize(
    ("precision", "advice"), [("fp32", "rate"), ("bf16", r"rate, or train with precision='fp32' \(--precision fp32\)")]
)
def test_weights_that_are_not_finite_are_not_saved(precision, advice, tmp_path, monkeypatch):
    """The loss is still finite when the step spoils the weights."""
    step = torch.optim.AdamW.step

    def spoil(self):
        step(self)
        self.param_groups[0]["params"][0].data[0] = math.inf

    monkeypatch.setattr(torch.optim.AdamW, "step", spoil)
    settings = {"checkpoint": tmp_path / "c.pt", "checkpoint_seconds": 0.0, "precision": precision}
    with pytest.raises(EgoDistillError, match=rf"no longer finite in epoch 0, step 1\. Lower the learning {advice}\."):
        finetune(small(), Store(16), **FAST | settings)
    assert list(tmp_path.iterdir()) == []


class Parts(training.Objective):
    """Terms that apply to some clips: `known` to all that are even, and `never` to none."""

    def __init__(self, shape=lambda value: value):
        super().__init__(nn.Linear(6, 1, bias=False), ["imu"], {"stage": "parts"})
        self.shape = shape

    def forward(self, batch):
        values, even = self.model(batch["imu"].mean(1))[:, 0].square(), batch["row"] % 2 == 0
        known = torch.where(even, values, math.nan)
        return {"loss": self.shape(values * even), "known": known, "never": torch.full_like(values, math.nan)}


def test_a_term_counts_where_it_applies():
    """The loss is a mean over all clips, another value over those that have one."""
    store, objective = Store(16), Parts()
    values = objective.model(torch.from_numpy(store.arrays["imu"]).mean(1))[:, 0].square().detach()
    (row,) = training.train(objective, store, training.Training(epochs=1, batch_size=16, **QUIET))
    assert row["loss"] == pytest.approx(float(values[::2].sum()) / 16, rel=1e-5)
    assert row["known"] == pytest.approx(float(values[::2].mean()), rel=1e-5) and math.isnan(row["never"])


def test_an_objective_gives_one_value_per_clip():
    with pytest.raises(EgoDistillError, match=r"'loss' with shape \[\] for a batch of 16 clips; .* \[16\]"):
        training.train(Parts(torch.mean), Store(16), training.Training(epochs=1, batch_size=16, **QUIET))


def test_a_model_without_parameters_is_not_trained():
    class Fixed(torch.nn.Module):
        inputs = ("imu",)

        def forward(self, imu):
            return imu.mean(1), torch.zeros(len(imu), 4)

    with pytest.raises(EgoDistillError, match="Fixed has no parameters to train"):
        finetune(Fixed(), Store(), **QUIET)


# --- Values that are not the usual ones


OTHER_SETTINGS = {
    "epochs": 3,
    "batch_size": 4,
    "learning_rate": 1e-3,
    "decay_epochs": (1,),
    "decay": 0.5,
    "schedule": "cosine",
    "warmup_epochs": 0.5,
    "weight_decay": 0.2,
    "seed": 5,
    "precision": "bf16",
    "augment": egodistill.Augment(crop=0.2),
    "label_smoothing": 0.1,
    "clip_norm": 2.0,
}
MAY_CHANGE = {"device", "checkpoint", "checkpoint_seconds", "progress", "sync_batch_norm"}
MAY_CHANGE |= {"keep_checkpoint", "out", "overwrite"}


def test_every_setting_that_changes_a_training_is_compared_when_it_goes_on():
    settings = egodistill.Training()
    assert set(OTHER_SETTINGS) | MAY_CHANGE == {field.name for field in dataclasses.fields(settings)}
    assert set(settings.record()) == set(OTHER_SETTINGS)
    for name, value in OTHER_SETTINGS.items():
        different = egodistill.support.files.differences(
            settings.record(), dataclasses.replace(settings, **{name: value}).record()
        )
        assert len(different) == 1 and next(iter(different)).startswith(name)


@pytest.mark.parametrize(
    ("settings", "expected"),
    [
        (
            {"decay_epochs": (2, 4), "decay": 0.5},
            {0: 1, 1.99: 1, 2: 0.5, 3.5: 0.5, 4: 0.25, 9: 0.25},
        ),
        (
            {"decay_epochs": (3,), "warmup_epochs": 2.0},
            {0: 0, 0.5: 0.25, 1.5: 0.75, 2: 1, 2.9: 1, 3: 0.1},
        ),
        (
            {"schedule": "cosine", "epochs": 8},
            {0: 1, 2: 0.5 + math.cos(math.pi / 4) / 2, 4: 0.5, 6: 0.5 - math.cos(math.pi / 4) / 2, 8: 0, 9: 0},
        ),
        (
            {"schedule": "cosine", "epochs": 8, "warmup_epochs": 4.0},
            {1: 0.25 * (0.5 + math.cos(math.pi / 8) / 2), 4: 0.5, 6: 0.5 - math.cos(math.pi / 4) / 2},
        ),
    ],
)
def test_learning_rates_are_those_of_the_schedule(settings, expected):
    schedule = egodistill.Training(learning_rate=0.25, **settings)
    for epoch, factor in expected.items():
        assert schedule.learning_rate_at(epoch) == pytest.approx(0.25 * factor, abs=1e-12), epoch


def spied_training(monkeypatch, model, store, **settings):
    """Train a model; return the arguments of AdamW, and at each step learning rate, progress, seed and rows."""
    given, steps = [], []
    adamw = torch.optim.AdamW

    class Spy(adamw):
        def __init__(self, parameters, **options):
            given.append(options)
            super().__init__(parameters, **options)

        def step(self, *arguments, **options):
            steps.append({"lr": self.param_groups[0]["lr"], "progress": model.progress[-1], "rows": model.rows[-1]})
            return super().step(*arguments, **options)

    monkeypatch.setattr(torch.optim, "AdamW", Spy)
    history = finetune(model, store, **QUIET | settings)
    return given, steps, history


class Watched(nn.Module):
    """A model that notes its progress, which clips it sees and which numbers its dropout draws."""

    inputs = ("frames", "imu")

    def __init__(self):
        super().__init__()
        self.layer = nn.Linear(6, 4)
        self.progress, self.rows, self.draws, self.frames = [], [], [], []

    def set_progress(self, done):
        self.progress.append(done)

    def forward(self, frames, imu):
        self.rows.append(imu[:, 0, 0].tolist())
        self.frames.append(frames.clone())
        self.draws.append(torch.rand(3).tolist())
        return Output(imu.mean(1), self.layer(imu.mean(1)))


def test_each_step_has_the_rate_and_progress_of_its_time(monkeypatch):
    """Ten clips in batches of 4, 4 and 2, with warm-up and a decay within; weight decay is passed on."""
    settings = {"epochs": 3, "batch_size": 4, "learning_rate": 0.5, "decay_epochs": (2,), "decay": 0.1}
    settings |= {"warmup_epochs": 1.2, "weight_decay": 0.3}
    given, steps, history = spied_training(monkeypatch, Watched(), Store(10), **settings)
    assert len(given) == 1 and given[0]["weight_decay"] == 0.3 and given[0]["lr"] == 0.5
    times = [epoch + done / 10 for epoch in range(3) for done in (0, 4, 8)]
    schedule = egodistill.Training(**settings)
    assert [step["lr"] for step in steps] == pytest.approx([schedule.learning_rate_at(t) for t in times])
    assert [step["progress"] for step in steps] == pytest.approx([t / 3 for t in times])
    middles = [schedule.learning_rate_at(epoch + 0.5) for epoch in range(3)]
    assert [row["learning_rate"] for row in history] == pytest.approx(middles)


def test_dropout_and_crops_differ_between_steps_epochs_and_seeds_and_repeat(monkeypatch):
    def run(seed):
        model = Watched()
        finetune(model, store, epochs=2, batch_size=4, seed=seed, augment=egodistill.Augment(crop=0.5), **QUIET)
        crops = {}  # of each clip, epoch by epoch
        for frames, rows in zip(model.frames, model.rows, strict=True):
            for frame, row in zip(frames, rows, strict=True):
                crops.setdefault(row, []).append(frame)
        return model.draws, crops

    store = Store(8)
    (draws, crops), (again, same_crops), (others, other_crops) = run(0), run(0), run(1)
    assert draws == again and draws != others
    assert len({tuple(one) for one in draws + others}) == 8  # two seeds of two epochs of two steps
    assert not any(torch.equal(crops[row][1], other_crops[row][0]) for row in crops)  # nor does a seed add to an epoch
    assert len(crops) == 8 and all(len(one) == 2 and not torch.equal(*one) for one in crops.values())
    assert all(torch.equal(a, b) for row in crops for a, b in zip(crops[row], same_crops[row], strict=True))
    assert sum(torch.equal(crops[row][0], other_crops[row][0]) for row in crops) < 2  # two that cut nothing


@pytest.mark.parametrize("epochs", [10, 35])
def test_after_few_steps_batch_norm_has_the_statistics_of_the_clips(epochs, monkeypatch, capsys):
    """... with which an answer is that of the whole batch; after 70 steps nothing changes, nor if it is frozen."""
    store, told = Store(24), "20 steps are few for batch norm: its statistics are computed anew on 24 training clips"
    settings = dict(FAST | QUIET, epochs=epochs, batch_size=12, seed=1, progress=True)
    built = [small(), small()]
    for model in built:
        next(part for part in model.modules() if isinstance(part, nn.BatchNorm2d)).weight.requires_grad_(False)
    frozen, *norms = (part for part in built[0].modules() if isinstance(part, runtime.BATCH_NORMS))
    training.print_once.cache_clear()
    finetune(built[0], store, **settings)
    assert (told in capsys.readouterr().err) == (epochs == 10) and float(frozen.running_mean.abs().max()) == 0
    assert {int(one.num_batches_tracked) for one in norms} == {2 if epochs == 10 else 70} and len(norms) > 5
    assert {one.momentum for one in norms} == {0.1} and not any(part.training for part in built[0].modules())
    monkeypatch.setattr(training.TrainingLoop, "settle_statistics", lambda self: None)
    finetune(built[1], store, **settings)
    inputs = [torch.from_numpy(store.arrays[name]) for name in ("frames_1", "imu")]
    with torch.no_grad():
        kept, before = (model(*inputs).logits for model in built)
        assert torch.equal(before, kept) == (epochs == 35)
        if epochs == 10:
            _, *others = (part for part in built[1].modules() if isinstance(part, runtime.BATCH_NORMS))
            for one in others:
                one.momentum = 1.0
                one.train()
            seen = []  # of each batch; means over both are what was kept
            for rows in training.epoch_order(24, egodistill.Training(batch_size=12, seed=1), 0).split(12):
                built[1](*(x[rows] for x in inputs))
                seen.append([(one.running_mean.clone(), one.running_var.clone()) for one in others])
            for norm, one, other in zip(norms, *seen, strict=True):
                for found, *both in zip((norm.running_mean, norm.running_var), one, other, strict=True):
                    torch.testing.assert_close(found, sum(both) / 2, rtol=1e-4, atol=1e-6)


def test_statistics_with_which_clips_are_answered_worse_are_not_kept(monkeypatch, capsys):
    store, held = Store(24), Store(8, seed=3)
    scores = iter([0.5, 0.4])
    real = training.TrainingLoop.means_on

    def means(loop, clips, rows):
        found = real(loop, clips, rows)
        assert clips is held
        return found | {"validation_top1": next(scores, 1.0)}

    monkeypatch.setattr(training.TrainingLoop, "means_on", means)
    training.print_once.cache_clear()
    model = small()
    finetune(model, store, validation=held, **dict(FAST | QUIET, epochs=1, batch_size=12, progress=True))
    assert "its statistics stay, because new ones are no better" in capsys.readouterr().err
    norms = [part for part in model.modules() if isinstance(part, runtime.BATCH_NORMS)]
    assert {int(one.num_batches_tracked) for one in norms} == {2} and {one.momentum for one in norms} == {0.1}


def test_a_trained_model_is_left_in_evaluation_mode():
    model = small()
    finetune(model.train(), Store(8), epochs=1, batch_size=4, **QUIET)
    assert not any(module.training for module in model.modules())


@pytest.mark.parametrize(("clips", "size", "used"), [(9, 4, 8), (8, 4, 8), (10, 4, 10), (3, 2, 2), (5, 8, 5)])
def test_an_epoch_leaves_out_a_last_batch_of_one_clip(clips, size, used):
    orders = [training.epoch_order(clips, egodistill.Training(batch_size=size, seed=3), epoch) for epoch in range(3)]
    for order in orders:
        assert len(order) == used == len(set(order.tolist())) and set(order.tolist()) <= set(range(clips))
    assert not all(torch.equal(order, orders[0]) for order in orders) or used < 3
    again = training.epoch_order(clips, egodistill.Training(batch_size=size, seed=3), 1)
    assert torch.equal(again, orders[1])


def labels_by_chance(store):
    """The same clips, of which a third has another label than what one sees."""
    rng = np.random.default_rng(0)
    store.labels = np.where(rng.random(len(store)) < 0.4, rng.integers(0, 4, len(store)), store.labels)
    return store


def test_a_temperature_is_fitted_at_the_end_on_clips_that_were_held_out(tmp_path, monkeypatch, capsys):
    """It changes nothing else; killed or repeated, a training ends with the same bytes; another begins without it."""
    store, held = Store(32), labels_by_chance(Store(80, seed=5))
    held.labels[:4] = -1
    settings = FAST | {"epochs": 3}
    plain, model = small(), small()
    distill(plain, store, teacher="t", **settings)
    distill(model, store, teacher="t", calibration=held, out=tmp_path / "s.safetensors", **settings)
    found, rows = calibration_of(model), held.labels >= 0
    with torch.no_grad():
        inputs = (torch.from_numpy(held.arrays[name][rows]) for name in ("frames_1", "imu"))
        logits = model(*inputs).logits
    assert same(plain, model) and calibration_of(plain) == Calibration()
    assert found == Calibration.fitted(logits, torch.from_numpy(held.labels[rows])) and found.clips == 76
    assert abs(found.temperature - 1) > 0.2
    content = (tmp_path / "s.safetensors").read_bytes()
    assert calibration_of(EgoDistill.load(tmp_path / "s.safetensors")) == found

    with monkeypatch.context() as patch:
        no_step(patch)
        again = small()
        distill(again, store, teacher="t", calibration=held, out=tmp_path / "s.safetensors", **settings)
        assert calibration_of(again) == found and same(again, model)
        for other, told in ((None, "calibration clips was 80"), (Store(60, seed=5), "calibration clips was 80 and is")):
            with pytest.raises(EgoDistillError, match=told):
                distill(small(), store, teacher="t", calibration=other, out=tmp_path / "s.safetensors", **settings)
    with monkeypatch.context() as patch:
        patch.setattr(training.TrainingLoop, "end_epoch", stop_after_the_first(training.TrainingLoop.end_epoch))
        with pytest.raises(KeyboardInterrupt):
            distill(small(), store, teacher="t", calibration=held, out=tmp_path / "k.safetensors", **settings)
    distill(small(), store, teacher="t", calibration=held, out=tmp_path / "k.safetensors", **settings)
    assert (tmp_path / "k.safetensors").read_bytes() == content

    few = labels_by_chance(Store(53, seed=5))
    few.labels[:4] = -1
    capsys.readouterr()
    finetune(model, store, calibration=few, **settings | {"progress": True})
    assert calibration_of(model) == Calibration() and "no temperature is fitted: 49 clips" in capsys.readouterr().err
    finetune(model, store, calibration=held, **settings)
    assert calibration_of(model).temperature != 1
    pretrain_imu(model, store, teacher="t", **settings)
    assert calibration_of(model) == Calibration()


def test_a_training_that_ended_before_its_model_was_written_has_its_temperature(tmp_path, monkeypatch):
    held, out = labels_by_chance(Store(60, seed=5)), tmp_path / "s.safetensors"
    model = small()
    finetune(model, Store(8), calibration=held, checkpoint=tmp_path / "s.safetensors.training", **FAST | {"epochs": 1})
    no_step(monkeypatch)
    finetune(small(), Store(8), calibration=held, out=out, **FAST | {"epochs": 1})
    assert calibration_of(EgoDistill.load(out)) == calibration_of(model) != Calibration()


def test_clips_that_decide_how_sure_a_model_is_are_not_trained_on():
    store = Named(60)
    with pytest.raises(EgoDistillError, match="60 of the calibration clips are trained on, such as clip-0"):
        finetune(small(), store, calibration=store, **FAST)
    held = Store(60, seed=5)
    held.class_names = CLASSES[::-1]
    with pytest.raises(EgoDistillError, match=r"calibration has the classes \['take', 'put'"):
        finetune(small(), Store(8), calibration=held, **FAST)


def test_a_network_of_ones_own_keeps_its_attribute_and_gets_a_temperature_if_asked():
    class Own(nn.Module):
        inputs, calibration = ("imu",), "mine"

        def __init__(self):
            super().__init__()
            self.layer = nn.Linear(6, 4)

        def forward(self, imu):
            return Output(imu[:, 0], self.layer(imu.std(1)))

    model = Own()
    finetune(model, Store(8), **FAST | {"epochs": 1})
    assert model.calibration == "mine"
    finetune(model, Store(8), calibration=labels_by_chance(Store(60, seed=5)), **FAST | {"epochs": 1})
    assert calibration_of(model).clips == 60
