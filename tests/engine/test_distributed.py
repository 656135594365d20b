"""Training with several processes: what two give is what one gives, and what ends one ends both."""

import faulthandler
import json
import os
import signal
import socket
import subprocess
import sys
import textwrap
import time
from concurrent.futures import ThreadPoolExecutor
from datetime import timedelta
from pathlib import Path
from unittest import mock

import numpy as np
import pytest
import small_teachers
import torch
from commandline import any_input
from foreign import linux_only
from toys import QUIET, Named, Store, same, small
from waiting import LIMIT

import egodistill
from egodistill import EgoDistill, EgoDistillError, data, distillation, training
from egodistill.commands import cli, models, training as training_commands
from egodistill.datasets.store import StoreWriter
from egodistill.engine import batches, distributed, runtime
from egodistill.recordings.spec import ClipSpec
from egodistill.student import Output
from egodistill.support import files
from egodistill.training import rank_rows

ROOT = Path(egodistill.__file__).parent
STAGES = ("finetune", "pretrain_imu", "distill")
# Batches of 9, 9 and 3 clips: shares of 4 and 5, and one process that looks on.
SETTINGS = {"epochs": 2, "batch_size": 9, "learning_rate": 0.05, "decay_epochs": (1,), "weight_decay": 0.0, **QUIET}
SETTINGS |= {"precision": "fp32"}  # "auto" would depend on the processor.
AUGMENT = batches.Augment(crop=0.5)
BRIEF = SETTINGS | {"epochs": 1, "learning_rate": 1e-3}


def still(model):
    """Without what one process does otherwise: batch norm in training, and dropout."""
    for part in model.modules():
        if isinstance(part, runtime.BATCH_NORMS):
            part.requires_grad_(False)  # The loop leaves these in evaluation mode.
    return without_dropout(model)


def without_dropout(model):
    for part in model.modules():
        if isinstance(part, torch.nn.Dropout):
            part.p = 0.0
    return model


def run(stage, model, store, *, stop=0, **settings):
    """A stage with plain gradient descent, so that weights differ as gradients do; `stop` ends it in that step."""
    steps = []

    def descend(parameters, lr, weight_decay, fused):
        optimizer = torch.optim.SGD(parameters, lr=lr)
        step = optimizer.step

        def counted():
            steps.append(1)
            if len(steps) == stop:
                raise InterruptedError
            step()

        optimizer.step = counted
        return optimizer

    teacher = {} if stage == "finetune" else {"teacher": "t"}
    adamw, torch.optim.AdamW = torch.optim.AdamW, descend
    try:
        return getattr(distillation, stage)(model, store, **SETTINGS | settings, **teacher)
    finally:
        torch.optim.AdamW = adamw


def student():
    return still(small(image_encoder="squeezenet1_1"))


def weights(model):
    return {name: value.clone() for name, value in model.state_dict().items()}


# --- What both processes do, each scenario in a group of its own. Its results are looked at in the tests below.


def do_stages(rank, folder, **settings):
    found = {}
    for stage in STAGES:
        model = student()
        found[stage] = run(stage, model, Store(21), **settings), weights(model)
    return found


def do_three(rank, folder):
    """Batches of 8, 8 and 5 clips: shares of 2, 3 and 3, then of 2, 3 and none."""
    return do_stages(rank, folder, batch_size=8)


def mixed():
    """Clips of which a third has a label; they are not evenly shared."""
    store = Store(21)
    store.labels = np.where(np.arange(21) < 7, store.labels, -1)
    return store


def do_mixed(rank, folder):
    found = {}
    for stage in ("finetune", "distill"):
        model = student()
        validation = {"validation": Store(4, seed=3)} if stage == "finetune" else {}
        found[stage] = run(stage, model, mixed(), **validation), weights(model)
    return found


def do_negatives(rank, folder):
    """Gradients of the contrastive loss by this process's own rows, when each has its share of the rows."""
    found = {}
    for rows in (5, 3):
        predicted, actual = rows_of(rows)
        share, own = distributed.Share.of(rows), rank_rows(torch.arange(rows))
        mine = [x[own].requires_grad_() for x in (predicted, actual)]
        weight = share.weights(len(own), torch.device("cpu"))
        (queries, places), (keys, _) = (distributed.gather(x, weight) for x in mine)
        loss = distillation.contrastive_loss(queries, keys, symmetric=True)
        ((weight * loss[places]).sum() / rows).backward()
        assert places.tolist() == (own.tolist() if share.stop > share.start else [0, 0])
        found[rows] = share.start, share.stop, float(loss.detach().mean()), [x.grad for x in mine]
    return found


def rows_of(count):
    generator = torch.Generator().manual_seed(count)
    return [torch.randn(count, 7, generator=generator) for _ in range(2)]


def do_parts(rank, folder):
    """Another start in each process, batch norm, dropout, a part that only one of them uses, and one that none does."""

    class Parts(EgoDistill):
        find_unused = True

        def forward(self, *inputs):
            feature, logits = super().forward(*inputs)
            return Output(feature, logits + self.extra if torch.distributed.get_rank() else logits)

        def extra_loss(self, output, batch):
            return {"size": output.logits.square().mean(1)}

    torch.manual_seed(rank)
    model = Parts(4, feature_dim=12, image_encoder="squeezenet1_1", image_weights=None, frame_size=32, hidden=32)
    model.imu_encoder.cnn[2].running_mean += rank
    model.extra, model.unused = (torch.nn.Parameter(torch.ones(4)) for _ in range(2))
    draws = []
    model.imu_encoder.cnn[4].register_forward_hook(lambda part, inputs, output: draws.append(output[:4, 0] == 0))
    with unsettled():
        history = distillation.distill(model, Store(8), teacher="t", **BRIEF | {"batch_size": 8, "weight_decay": 0.1})
    return history, weights(model), draws


def unsettled():
    """Leave the statistics of batch norm as the steps have made them."""
    return mock.patch.object(training.TrainingLoop, "settle_statistics", lambda self: None)


def do_unused(rank, folder):
    """A parameter that no step uses, and that the model does not tell of."""
    model = student()
    model.unused = torch.nn.Parameter(torch.ones(4))
    with pytest.raises(EgoDistillError) as error:
        distillation.finetune(model, Store(8), **BRIEF | {"batch_size": 8})
    return str(error.value)


def do_sync(rank, folder):
    """Batch norm over all clips: shares of 4 and 5, and a process whose clips must not count."""
    model = without_dropout(small(image_encoder="resnet10x8"))
    return run("finetune", model, Store(21), sync_batch_norm=True), weights(model)


def do_augment(rank, folder):
    model = student()
    return run("distill", model, Store(21), augment=AUGMENT), weights(model)


def do_resume(rank, folder):
    """Go on with what one process began; begin what one process will end."""
    model, written, atomic_write = student(), [], files.atomic_write
    files.atomic_write = lambda path, **how: written.append(path.name) or atomic_write(path, **how)
    rest = run("distill", model, Store(21), checkpoint=folder / "one.pt", checkpoint_seconds=0.0)
    files.atomic_write = atomic_write
    with pytest.raises(InterruptedError):
        run("distill", student(), Store(21), checkpoint=folder / "two.pt", checkpoint_seconds=0.0, stop=5)
    return rest, weights(model), set(written)


def do_nan(rank, folder):
    """One clip that only one process reads."""
    store = Named(21)
    store.arrays["imu"][11, ::2] = 1e38  # finite, but too large for the sums of a loss
    with pytest.raises(EgoDistillError) as error:
        distillation.distill(student(), store, teacher="t", **BRIEF)
    return str(error.value)


def do_command(rank, folder):
    """What torchrun starts, undisturbed."""
    training_commands.open_split = lambda path, split: Kept(21)
    assert cli.main(command(folder / "whole.safetensors")) == 0


class Kept(Store):
    settings, splits = {"frame_size": 32}, ["test", "train"]

    def done(self, name):
        return np.ones(len(self), bool)


def command(out):
    return [
        "distill",
        ".",
        "--teacher",
        "t",
        "--out",
        str(out),
        "--image-encoder",
        "squeezenet1_1",
        "--image-weights",
        "none",
        "--epochs",
        "2",
        "--batch-size",
        "8",
        "--precision",
        "fp32",
        "--device",
        "cpu",
    ]


def do_precision(rank, folder):
    """Machines of two kinds: each would choose another precision."""
    runtime.pick_training_precision = lambda *_: (("bf16", "fp32")[rank], "of the test")
    loop = training.TrainingLoop(distillation.Finetune(student(), Store(8)), Store(8), training.Training(**QUIET))
    loop.resume()
    return loop.settings.precision, loop.about["precision"]


def do_loss_of_one(rank, folder):
    """An error that process 1 alone has, and outlives: process 0 must not wait for it."""
    store = Store(21)
    if rank:
        store.read = lambda name, index: (_ for _ in ()).throw(OSError("the disk of machine 1 is gone"))
    with pytest.raises(OSError) as error:
        distillation.finetune(student(), store, **BRIEF)
    if rank:
        for _ in range(1200):
            time.sleep(0.1 * (not (folder / "told").exists()))
    else:
        (folder / "told").touch()
    return type(error.value).__name__, str(error.value), (folder / "told").exists()


SCENARIOS = (
    *("stages", "mixed", "negatives", "parts", "unused", "sync", "augment", "resume", "nan", "command", "precision"),
    "loss_of_one",
)


def work(rank, folder, scenarios, processes):
    torch.set_num_threads(1)
    for name in scenarios:
        # A file to meet at needs no port that is free.
        meeting = f"file://{folder}/{name}"
        torch.distributed.init_process_group("gloo", init_method=meeting, rank=rank, world_size=processes)
        found = globals()[f"do_{name}"](rank, folder)
        torch.save(found, folder / f"{name}.{rank}")
        if torch.distributed.is_initialized():
            torch.distributed.destroy_process_group()


@pytest.fixture(scope="module")
def both(tmp_path_factory):
    """What each of two processes found, in each scenario."""
    folder = tmp_path_factory.mktemp("both")
    with pytest.raises(InterruptedError):
        run("distill", student(), Store(21), checkpoint=folder / "one.pt", checkpoint_seconds=0.0, stop=3)
    return spawn(folder, SCENARIOS, 2) | {"folder": folder}


def spawn(folder, scenarios, processes):
    torch.multiprocessing.spawn(work, (folder, scenarios, processes), nprocs=processes)
    ranks = range(processes)
    return {name: [torch.load(folder / f"{name}.{rank}", weights_only=False) for rank in ranks] for name in scenarios}


def close(a, b):
    assert a.keys() == b.keys()
    for name in a:
        torch.testing.assert_close(a[name], b[name], rtol=0, atol=1e-5, msg=lambda text, name=name: f"{name}: {text}")


MEASURED = ("clips_per_second", "loader_share")


@pytest.mark.parametrize("stage", STAGES)
def test_two_processes_give_what_one_gives(both, stage):
    """Losses and weights after six steps of plain descent: those are the sum of all gradients."""
    model = student()
    before = weights(model)
    history = run(stage, model, Store(21))
    (first, ours), (second, theirs) = (found[stage] for found in both["stages"])
    assert first == second and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert max(float((ours[name] - before[name]).abs().max()) for name in ours) > 1e-2
    close(ours, weights(model))
    for one, two in zip(history, first, strict=True):
        assert one.keys() == two.keys()
        for name in one.keys() - set(MEASURED):
            assert two[name] == pytest.approx(one[name], abs=1e-5), name


@pytest.mark.parametrize("stage", ["finetune", "distill"])
def test_two_processes_share_the_mean_over_labelled_clips(both, stage):
    model = student()
    validation = {"validation": Store(4, seed=3)} if stage == "finetune" else {}
    history = run(stage, model, mixed(), **validation)
    for rows, ours in (found[stage] for found in both["mixed"]):
        close(ours, weights(model))
        for one, two in zip(history, rows, strict=True):
            assert all(two[name] == pytest.approx(one[name], abs=1e-5) for name in one.keys() - set(MEASURED))


@pytest.mark.slow("three processes; two run by default")
def test_three_processes_give_what_one_gives(tmp_path):
    ranks = spawn(tmp_path, ["three"], 3)["three"]
    for stage in STAGES:
        model = student()
        history = run(stage, model, Store(21), batch_size=8)
        for rows, ours in (found[stage] for found in ranks):
            close(ours, weights(model))
            for one, several in zip(history, rows, strict=True):
                assert all(several[name] == pytest.approx(one[name], abs=1e-5) for name in one.keys() - set(MEASURED))


@pytest.mark.parametrize("rows", [5, 3])
def test_negatives_of_all_processes_have_their_gradient(both, rows):
    inputs = [x.requires_grad_() for x in rows_of(rows)]
    loss = distillation.contrastive_loss(*inputs, symmetric=True).mean()
    loss.backward()
    (start, middle, *_), (again, stop, *_) = (found[rows] for found in both["negatives"])
    assert (start, middle, again, stop) == ((0, 2, 2, 5) if rows == 5 else (0, 3, 3, 3))
    for start, stop, ours, gradients in (found[rows] for found in both["negatives"]):
        assert ours == pytest.approx(float(loss.detach()), abs=1e-6)
        for whole, own in zip(inputs, gradients, strict=True):
            wanted = whole.grad[start:stop] if stop > start else torch.zeros_like(own)
            torch.testing.assert_close(own, wanted, rtol=0, atol=1e-6)


def test_all_processes_hold_the_same_model(both):
    (history, ours, mine), (other, theirs, yours) = both["parts"]
    assert history == other and all(torch.equal(ours[name], theirs[name]) for name in ours)
    assert set(history[0]) >= {"loss", "kd", "gt", "l1", "size", "top1"}
    torch.manual_seed(0)  # process 0 began with this model, and all others with its
    alone = small(image_encoder="squeezenet1_1")
    with unsettled():
        distillation.distill(alone, Store(8), teacher="t", **BRIEF | {"batch_size": 8})
    close({"mean": ours["imu_encoder.cnn.2.running_mean"]}, {"mean": alone.imu_encoder.cnn[2].running_mean})
    # Dropout is drawn anew in each process, though their clips stand in the same places.
    assert len(mine) == len(yours) == 1 and not torch.equal(mine[0], yours[0])
    assert not torch.equal(ours["extra"], torch.ones(4)) and torch.equal(ours["unused"], torch.ones(4))


def test_a_parameter_without_gradient_is_an_error(both):
    """Or the processes' weights would drift apart."""
    assert all(
        "1 trained parameters such as model.unused" in words and "find_unused" in words for words in both["unused"]
    )


def test_batch_norm_over_all_processes_counts_each_clip_once(both):
    model = without_dropout(small(image_encoder="resnet10x8"))
    history = run("finetune", model, Store(21))
    for rows, ours in both["sync"]:
        close(ours, weights(model))
        assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in history], abs=1e-5)


def test_processes_augment_as_one(both):
    """Each clip by its own draw, anew in each epoch."""
    model, plain = student(), student()
    history = run("distill", model, Store(21), augment=AUGMENT)
    other = run("distill", plain, Store(21))
    for rows, ours in both["augment"]:
        close(ours, weights(model))
        assert [row["loss"] for row in rows] == pytest.approx([row["loss"] for row in history], abs=1e-5)
    assert [row["loss"] for row in other] != pytest.approx([row["loss"] for row in history], abs=1e-4)


def test_a_run_goes_on_with_another_number_of_processes(both):
    model = student()
    history = run("distill", model, Store(21))
    for rest, ours, written in both["resume"]:  # one process, then two
        close(ours, weights(model))
        assert [row["loss"] for row in rest] == pytest.approx([row["loss"] for row in history], abs=1e-5)
        assert written == ({"one.pt", "one.jsonl"} if ours is both["resume"][0][1] else set())
    again = student()
    path = both["folder"] / "two.pt"
    state = torch.load(path, weights_only=True)["state"]
    assert (state["epoch"], state["step"]) == (1, 1)
    run("distill", again, Store(21), checkpoint=path)
    close(weights(again), weights(model))
    lines = (both["folder"] / "one.jsonl").read_text().splitlines()
    assert [json.loads(line)["loss"] for line in lines] == [row["loss"] for row in both["resume"][0][0]]


def test_one_bad_clip_ends_both_with_its_batch(both):
    first, second = both["nan"]
    assert first == second and "loss is nan in epoch 0, step" in first
    named = first.partition("(clips ")[2].partition(")")[0]
    shown, _, more = named.partition(" and ")
    assert "clip-11" in shown.split(", ") and len(shown.split(", ")) + int(more.partition(" ")[0] or 0) in (3, 9)


def test_an_error_of_one_ends_both_at_once(both):
    (kind, words, _), (_, own, told) = both["loss_of_one"]
    assert own == "the disk of machine 1 is gone" and told
    assert kind == "EgoDistillOSError" and "another process" in words


def test_process_0_decides_the_precision(both):
    assert both["precision"] == 2 * [("bf16", "bf16")]


# --- The command under torchrun

SCRIPT = """
    import os, signal, sys
    sys.path[:0] = [{root!r}, {root!r} + "/tests", {root!r} + "/tests/engine"]
    import torch
    import test_distributed as T
    from egodistill.commands import cli, training
    fault, at, *command = sys.argv[1:]
    training.open_split = lambda path, split: T.Kept(21)
    step, count = torch.optim.AdamW.step, [0]
    def counted(self, *arguments):
        count[0] += 1
        if count[0] == int(at) and os.environ["RANK"] == "1":
            if fault == "raise":
                raise OSError("a fault of process 1")
            if os.environ["TORCHELASTIC_RESTART_COUNT"] == "0":
                os.kill(os.getpid(), signal.SIGKILL)
        return step(self, *arguments)
    torch.optim.AdamW.step = counted
    sys.exit(cli.main(command))
"""


@pytest.fixture
def torchrun(tmp_path):
    script = tmp_path / "script.py"
    script.write_text(textwrap.dedent(SCRIPT.format(root=str(ROOT))))

    def start(fault, at, out, *, restarts=0):
        return subprocess.run(
            [
                sys.executable,
                "-m",
                "torch.distributed.run",
                "--standalone",
                "--nproc-per-node=2",
                f"--max-restarts={restarts}",
                str(script),
                fault,
                str(at),
                *command(out),
            ],
            capture_output=True,
            text=True,
            timeout=LIMIT,
            cwd=tmp_path,
        )

    return start


# --- Two machines: two agents of torchrun with two processes each

JOB = """
    import sys
    sys.path[:0] = [{root!r}, {root!r} + "/tests", {root!r} + "/tests/engine"]
    import test_distributed
    sys.exit(test_distributed.job(*sys.argv[1:]))
"""


def job(folder, fault="none"):
    """Extract, distill and evaluate by command, in one process or several; return the first exit code above 0."""
    torch.set_num_threads(1)
    training_commands.build_student = lambda *_: student()
    marker = Path(folder, f"{fault} killed")
    own = os.environ.get("MACHINE") == os.environ.get("LOCAL_RANK") == "1"

    class Descent(torch.optim.SGD):  # plain, as in `run()`
        def __init__(self, parameters, lr, weight_decay, fused):
            super().__init__(parameters, lr=lr)
            self.steps = 0

        def step(self):
            self.steps += 1
            if own and self.steps == {"agent": 5, "process": 2}.get(fault) and not marker.exists():
                marker.touch()
                os.kill(os.getppid() if fault == "agent" else os.getpid(), signal.SIGKILL)
                time.sleep(300)  # end_with_agent() ends it
            super().step()

    torch.optim.AdamW = Descent
    store, teacher, out = (str(Path(folder, name)) for name in ("store", "teacher.safetensors", "student.safetensors"))
    training = (
        "--epochs 2 --batch-size 9 --learning-rate 0.01 --decay-epochs 1 --weight-decay 0 --precision fp32".split()
    )
    for words in (
        ["extract", store, "--teacher-file", teacher, "--batch-size", "2"],
        ["distill", store, "--teacher", "x3d", "--out", out, *training],
        evaluation(folder, "evaluation.json"),
    ):
        if code := cli.main([*words, "--device", "cpu"]):
            return code
    return 0


def evaluation(folder, out):
    """Return the command that evaluates the student of a job."""
    names = {"--student": "student.safetensors", "--out": out}
    files_of = [word for option, name in names.items() for word in (option, str(Path(folder, name)))]
    options = ["--split", "train", "--teacher", "x3d", "--precision", "fp32"]
    return ["evaluate", str(Path(folder, "store")), *files_of, *options]


def job_folder(folder):
    """What a job reads: a teacher, and a store with 21 clips."""
    folder.mkdir()
    toy = Store(21)
    teacher = small_teachers.small(
        "x3d_m", 4, class_names=toy.class_names, seconds=egodistill.CLIP_SECONDS, feature_dim=12
    )
    teacher.name = "x3d"
    teacher.save(folder / "teacher.safetensors")
    specs = {
        "frames_1": ClipSpec(frames=1, size=32),
        "imu": ClipSpec(imu_samples=egodistill.IMU_SAMPLES),
        "clip": ClipSpec(frames=4, size=32, crop=True),
    }
    segments = [data.Segment(f"{k}", "v.mp4", k, k + 3.0, toy.class_names[k % 4], split="train") for k in range(21)]
    clips = [(k, float(k)) for k in range(21)]
    writer = StoreWriter.begin(folder / "store", segments, lambda: clips, specs, toy.class_names)
    times = {f"{name}.times": np.zeros(specs[name].frames) for name in ("frames_1", "clip")}
    for row in range(21):
        frame = toy.arrays["frames_1"][row]
        clip = np.concatenate([frame, frame[..., ::-1], frame[..., ::-1, :], 255 - frame])
        writer.write(row, {"frames_1": frame, "imu": toy.arrays["imu"][row], "clip": clip, **times})
    return folder


@pytest.fixture
def machines(tmp_path):
    """Return a function that starts a job on two machines, and returns exit code and output of each."""
    script = tmp_path / "job.py"
    script.write_text(textwrap.dedent(JOB.format(root=str(ROOT))))

    def start(*arguments, restarts=0):
        with socket.socket() as one:
            one.bind(("127.0.0.1", 0))
            port = one.getsockname()[1]
        command = [sys.executable, "-m", "torch.distributed.run", "--nnodes=2", "--nproc-per-node=2"]
        command += ["--rdzv-backend=c10d", f"--rdzv-endpoint=127.0.0.1:{port}", "--local-addr=127.0.0.1"]
        agents = []
        for machine in (0, 1):  # Machine 1 may die: machine 0 is where the agents meet.
            options = [f"--rdzv-conf=is_host={1 - machine}", f"--max-restarts={restarts}"]
            environment = os.environ | {"MACHINE": str(machine), "OMP_NUM_THREADS": "1"}
            with open(tmp_path / f"output {machine}", "w") as output:
                agents.append(
                    subprocess.Popen(
                        [*command, *options, str(script), *map(str, arguments)],
                        stdout=output,
                        stderr=output,
                        env=environment,
                        cwd=tmp_path,
                    )
                )
        try:
            codes = [agent.wait(LIMIT) for agent in agents]
        finally:
            for agent in agents:
                agent.kill()
        return [(code, (tmp_path / f"output {k}").read_text()) for k, code in enumerate(codes)]

    return start


@pytest.mark.slow("two agents of torchrun, killed and started again")
@linux_only
def test_two_machines_give_what_one_process_gives(tmp_path, machines):
    """Also after an agent was killed and the job started again, and after a restart within the job."""
    alone, both = (job_folder(tmp_path / name) for name in ("alone", "both"))
    (first, told), (second, other) = machines(both, "agent")
    seconds = time.time() - (both / "agent killed").stat().st_mtime
    assert first > 0 and second == -signal.SIGKILL and seconds < 60
    lost = "egodistill distill: another process of this training has died"
    orphaned = "egodistill: torchrun has died on this machine"
    assert told.count(lost) == 1, told
    # The orphan that looks second may see the end of the first one before it looks.
    assert orphaned in other and other.count(orphaned) + other.count(lost) >= 2, other
    assert not (both / "student.safetensors").exists()
    ended = machines(both, "process", restarts=1)
    assert [code for code, _ in ended] == [0, 0] and (both / "process killed").exists(), ended
    subprocess.run([sys.executable, tmp_path / "job.py", alone], check=True, cwd=tmp_path)
    wanted, found = (data.ClipStore(folder / "store") for folder in (alone, both))
    for name in ("x3d.feature", "x3d.logits"):
        np.testing.assert_array_equal(found.read(name, range(21)), wanted.read(name, range(21)))
    close(*(weights(EgoDistill.load(folder / "student.safetensors")) for folder in (both, alone)))
    assert cli.main(evaluation(both, "again.json")) == 0
    assert files.read_json(both / "evaluation.json") == files.read_json(both / "again.json")


def leave_again_and_again(rank, folder):
    """Drop a model after its process group: torch's destructors must not wait for each other."""
    faulthandler.dump_traceback_later(60, exit=True)  # a deadlock
    torch.set_num_threads(1)
    for k in range(30):
        torch.distributed.init_process_group("gloo", init_method=f"file://{folder}/{k}", rank=rank, world_size=2)
        model = distributed.parallel(
            torch.nn.Sequential(*(torch.nn.Linear(64, 64) for _ in range(6))), find_unused=False
        )
        for _ in range(2):
            model(torch.ones(4, 64)).sum().backward()
        distributed.leave_processes()
        assert not torch.distributed.is_initialized()
        del model


@pytest.mark.slow("process groups that come and go")
def test_a_model_outlives_its_process_group(tmp_path):
    torch.multiprocessing.spawn(leave_again_and_again, (tmp_path,), nprocs=2)


@pytest.mark.slow("torchrun, killed")
def test_torchrun_goes_on_after_a_kill(tmp_path, both, torchrun):
    done = torchrun("kill", 5, tmp_path / "killed.safetensors", restarts=1)  # in the second epoch
    assert done.returncode == 0 and done.stdout.count("killed.safetensors: loss") == 1, done.stderr
    assert done.stderr.count("42/42 clips") == 1  # one progress bar
    assert same(EgoDistill.load(tmp_path / "killed.safetensors"), EgoDistill.load(both["folder"] / "whole.safetensors"))


@pytest.mark.slow("torchrun")
def test_torchrun_tells_an_error_once(tmp_path, torchrun):
    done = torchrun("raise", 2, tmp_path / "raised.safetensors")
    assert done.returncode != 0 and "a fault of process 1" in done.stderr
    assert done.stderr.count("egodistill distill:") == 1, done.stderr


def test_what_fails_several_processes_is_told_by_the_first(monkeypatch):
    assert distributed.is_first_failure() and distributed.is_first_failure()  # alone
    store = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True)
    for name, value in {"MASTER_ADDR": "127.0.0.1", "MASTER_PORT": store.port, "WORLD_SIZE": 2}.items():
        monkeypatch.setenv(name, str(value))
    monkeypatch.setenv("LOCAL_WORLD_SIZE", "2")
    assert [distributed.is_first_failure() for _ in range(3)] == [True, False, False]
    monkeypatch.setenv("TORCHELASTIC_RESTART_COUNT", "1")
    assert [distributed.is_first_failure() for _ in range(3)] == [True, False, False]
    monkeypatch.setenv("GROUP_RANK", "1")  # Another machine shows its own.
    assert [distributed.is_first_failure() for _ in range(3)] == [True, False, False]
    monkeypatch.setattr(distributed, "ATTEMPT", ["attempt 7"])  # whatever its agent has counted
    assert [distributed.is_first_failure() for _ in range(3)] == [True, False, False]


def test_attempts_of_a_job_have_names_of_their_own(monkeypatch):
    """Also if processes died before they knew it, and machines count restarts differently."""
    host = torch.distributed.TCPStore("127.0.0.1", 0, is_master=True)

    def attempt(ranks):
        stores = [torch.distributed.TCPStore("127.0.0.1", host.port, is_master=False) for _ in ranks]
        with ThreadPoolExecutor(3) as pool:
            return {*pool.map(lambda rank: distributed.agree_on_attempt(stores[rank], rank, 3), ranks)}

    host.set("process 1", "attempt of a process that was killed")
    names = [attempt(ranks) for ranks in ((0, 1, 2), (2, 1, 0))]
    assert [len(found) for found in names] == [1, 1] and names[0] != names[1]
    monkeypatch.setattr(distributed, "TIMEOUT", timedelta(seconds=0.1))
    with pytest.raises(torch.distributed.DistStoreError, match="not all processes have started"):
        distributed.agree_on_attempt(host, 0, 3)


def test_one_process_evaluates(monkeypatch):
    ran = []
    any_input(monkeypatch)
    monkeypatch.setattr(models, "run_evaluate", lambda arguments: ran.append(os.environ["WORLD_SIZE"]))
    for name, value in {"MASTER_ADDR": "127.0.0.1", "WORLD_SIZE": "2", "RANK": "1"}.items():
        monkeypatch.setenv(name, value)
    assert cli.main(["evaluate", "store", "--student", "c.safetensors"]) == 0 and ran == []
    monkeypatch.setenv("RANK", "0")
    assert cli.main(["evaluate", "store", "--student", "c.safetensors"]) == 0 and ran == ["1"]
    assert os.environ["WORLD_SIZE"] == "2"  # as the caller set it


# --- One process that plays all: shares of a batch, and batch norm over them


@pytest.mark.parametrize("processes", [1, 2, 3, 5])
@pytest.mark.parametrize("total", [2, 3, 7, 10, 21])
def test_shares_are_consecutive_rows_of_at_least_two_clips(monkeypatch, processes, total):
    batch, seen, weights = torch.arange(total) + 100, [], []
    for rank in range(processes):
        monkeypatch.setattr(distributed, "rank_and_world_size", lambda rank=rank: (rank, processes))
        share = distributed.Share.of(total)
        rows = share.rows(batch).tolist()
        weight = share.weights(len(rows), torch.device("cpu"))
        weights += weight.tolist()
        assert len(rows) >= 2 and weight.unique().numel() == 1 and (bool(weight[0]) or rows == [100, 101])
        seen += rows if weight[0] else []
    assert seen == batch.tolist() and sum(weights) == total


@pytest.mark.parametrize("momentum", [0.1, 0.3, None])
def test_batch_norm_over_unequal_shares_is_that_of_the_whole_batch(monkeypatch, momentum):
    """Shares of 2, 3 and 5 clips, and a process that only looks on; two steps, as running statistics remember."""
    shares = [(0, 2), (2, 5), (5, 10), (10, 10)]
    whole = torch.nn.BatchNorm2d(4, eps=0.3, momentum=momentum).train()
    with torch.no_grad():
        whole.weight.uniform_(0.5, 1.5)
        whole.bias.normal_()
    norms = []
    for _ in shares:
        model = torch.nn.Sequential(torch.nn.BatchNorm2d(4, eps=0.3, momentum=momentum))
        model[0].load_state_dict(whole.state_dict())
        distributed.sync_batch_norm(model)
        norms.append(model)
    for step in range(2):
        x = torch.randn(10, 4, 3, 2, generator=torch.Generator().manual_seed(step)) * 2 + step
        parts = [x[a:b] if b > a else x[:2] for a, b in shares]
        sent, results = [], []
        for send in (True, False):  # first what each process sends, then what it makes of the sum
            for rank, (model, part, (start, stop)) in enumerate(zip(norms, parts, shares, strict=True)):
                monkeypatch.setattr(distributed, "rank_and_world_size", lambda rank=rank: (rank, len(shares)))
                distributed.share_batch_norm(model, distributed.Share(start, stop, 10))
                before = {name: value.clone() for name, value in model.state_dict().items()}
                if send:
                    monkeypatch.setattr(
                        distributed.AllReduceSum, "apply", lambda own, to=sent: to.append(own) or own + 1e-9
                    )
                    model(part)
                    model.load_state_dict(before)
                else:
                    monkeypatch.setattr(distributed.AllReduceSum, "apply", lambda own, of=sent: torch.stack(of).sum(0))
                    results.append(model(part))
        torch.testing.assert_close(torch.cat(results[:3]), whole(x), rtol=1e-4, atol=1e-5)
        for model in norms:
            for name in ("running_mean", "running_var", "num_batches_tracked"):
                torch.testing.assert_close(getattr(model[0], name), getattr(whole, name), rtol=1e-5, atol=1e-6)


def test_running_statistics_are_averaged_by_clips(monkeypatch):
    """This process has a quarter of the clips; batch norms in evaluation mode are left alone."""
    model = torch.nn.Sequential(torch.nn.BatchNorm1d(2), torch.nn.BatchNorm1d(2).eval())
    model[0].running_mean += torch.tensor([4.0, 8.0])
    sent = []
    monkeypatch.setattr(distributed, "rank_and_world_size", lambda: (0, 2))
    monkeypatch.setattr(distributed, "all_reduce_sum", lambda x: sent.append(x.clone()) or x + 10)
    distributed.average_statistics(model, 0.25)
    assert sent[0].tolist() == [1.0, 2.0, 0.25, 0.25]
    assert model[0].running_mean.tolist() == [11.0, 12.0] and model[0].running_var.tolist() == [10.25, 10.25]
    assert model[1].running_mean.tolist() == [0.0, 0.0]


def test_replaced_batch_norms_keep_all_settings_and_values():
    norm = torch.nn.BatchNorm2d(3, eps=1e-3, momentum=0.25)
    torch.nn.init.normal_(norm.weight)
    norm.running_mean += 2
    frozen = torch.nn.BatchNorm1d(3, affine=False)
    model = torch.nn.Sequential(norm.eval(), frozen)
    before = {name: value.clone() for name, value in model.state_dict().items()}
    distributed.sync_batch_norm(model)
    synced = model[0]
    assert type(synced) is distributed.SyncBatchNorm and (synced.eps, synced.momentum, synced.training) == (
        1e-3,
        0.25,
        False,
    )
    assert synced.weight is norm.weight and synced.bias is norm.bias and model[1] is frozen
    assert all(torch.equal(value, before[name]) for name, value in model.state_dict().items())
    x = torch.randn(4, 3, 2, 2)
    assert torch.equal(synced(x), norm(x))  # alone, or in evaluation mode, it is an ordinary one
