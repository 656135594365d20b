"""What AdaFuse, STTS and ListenToLook share: their image networks, files, errors and the shared loop."""

import json
import os
import subprocess
import sys
from pathlib import Path

import gradients
import layers
import model_files
import pytest
import rival_gradients
import torch
import torchvision
from commandline import ROOT, run
from small_baselines import FUSE, LISTEN, SMALL, Store, always, listener, small_adafuse, small_stts
from torch import nn
from torch.nn import functional as F
from toys import CLASSES, QUIET

import egodistill as E
from egodistill import data
from egodistill.engine import batches
from lab import adafuse, baselines, stts
from lab.__main__ import main
from lab.adafuse import AdaFuse
from lab.baselines import BaselineError
from lab.listen_to_look import ListenToLook
from lab.stts import STTS


@pytest.mark.slow("processes for each set of instructions")
@pytest.mark.parametrize("instructions", ["AVX2", "ALL"])
@pytest.mark.parametrize(("network", "width"), [("BasicBlock", 4), ("Bottleneck", 1)])
def test_gradients_of_narrow_shortcuts(network, width, instructions):
    """The image networks of ListenToLook and AdaFuse; see the test of this name for the student."""
    gradients.check(network, width, instructions, rival_gradients.__file__)


@pytest.mark.parametrize(
    "build",
    [
        lambda: AdaFuse(4, weights=None, frame_size=64, width=16),
        lambda: ListenToLook(4, weights=None, frame_size=64),
    ],
)
def test_convolutions_get_channels_last(build):
    layers.check_channels_last(build().eval())


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


# --- Through the shared loop


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
    model.eval().save(tmp_path / "deep" / "model.safetensors")
    again = baselines.Baseline.load(tmp_path / "deep" / "model.safetensors")
    assert type(again) is type(model) and not again.training and again.class_names == CLASSES
    assert again.arguments == model.arguments and [p.name for p in (tmp_path / "deep").iterdir()] == [
        "model.safetensors"
    ]
    inputs = batches.example_inputs(model, 2)
    with torch.no_grad():
        assert torch.equal(model(*inputs).logits, again(*inputs).logits)
    assert len(list(again.parameters())) == len(list(model.parameters()))


def test_files_that_do_not_fit(tmp_path):
    path = tmp_path / "model.safetensors"
    with pytest.raises(E.EgoDistillError, match=r"model\.safetensors: no such file"):
        AdaFuse.load(path)
    small_adafuse().save(path)
    with pytest.raises(E.EgoDistillError, match=r"contains a model of the class AdaFuse, not STTS"):
        STTS.load(path)
    whole = path.read_bytes()
    model_files.change(path, lambda record, _: record["arguments"].update(colour=3))
    with pytest.raises(E.EgoDistillError, match=r"model\.safetensors: its arguments.*colour"):
        AdaFuse.load(path)
    path.write_bytes(whole)
    model_files.change(path, lambda _, weights: weights.update(extra=weights.pop("classifier.bias")))
    with pytest.raises(
        E.EgoDistillError, match=r"model\.safetensors.*1 missing \(classifier\.bias\); 1 unexpected \(extra\)"
    ):
        AdaFuse.load(path)
    path.write_bytes(whole)
    model_files.change(path, lambda record, _: record.update(format="something else"))
    with pytest.raises(E.EgoDistillError, match="something else"):
        baselines.Baseline.load(path)
    path.write_bytes(b"PK\x03\x04 cut off")
    with pytest.raises(E.EgoDistillError, match=r"model\.safetensors cannot be read"):
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
        url = "https://download.pytorch.org/models/resnet50.pth"

        def get_state_dict(self, **options):
            raise OSError("no route to host")

    monkeypatch.setattr(torchvision.models, "get_weight", lambda name: Offline())
    for build in (AdaFuse, STTS, ListenToLook):
        with pytest.raises(ValueError, match=r"_V1 could not be downloaded \(no route to host\).*give a path"):
            build(4)


@pytest.mark.parametrize(
    ("build", "options", "words"),
    [
        (small_adafuse, {"gates": "first"}, "gates must be one of .*'last', 'all'.*'first'"),
        (small_adafuse, {"last_frame": "next"}, "last_frame must be one of"),
        (small_adafuse, {"efficiency": "none"}, "efficiency must be one of"),
        (small_adafuse, {"depths": (1, 1, 1)}, r"depths must be four numbers of blocks.*\(1, 1, 1\)"),
        (small_adafuse, {"width": 4, "temporal_shift": True}, "at least 8; got width=4"),
        (small_adafuse, {"num_frames": 0}, "AdaFuse: num_frames must be at least 1; got 0"),
        (small_adafuse, {"class_names": ["a"]}, "1 class names for num_classes=4"),
        (small_stts, {"time_ratio": 0.375}, "time_ratio=0.375 keeps 0 of the 2 temporal tokens of 4 frames"),
        (small_stts, {"time_ratio": 1.5}, "keeps 3 of the 2"),
        (small_stts, {"space_ratio": 0.0}, "space_ratio=0.0 results in windows of 0 x 0 on a map of 4 x 4"),
        (small_stts, {"space_ratio": 2.0}, "windows of 5 x 5"),
        (small_stts, {"frame_size": 50}, "frame_size=50 must be a multiple of 32"),
        (small_stts, {"depths": (1, 1, 1, 1)}, "the third at least 2"),
        (small_stts, {"jacobian": "half"}, "jacobian must be 'diagonal' or 'full'; got 'half'"),
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
    with pytest.raises(TypeError, match=r"frames must be a torch.Tensor; got numpy.ndarray"):
        small_adafuse()(frames.numpy())
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


def test_a_file_of_a_rival_is_read_by_the_lab_alone(taught, capsys):
    store = data.ClipStore("s")
    torch.manual_seed(0)
    rival = AdaFuse(len(store.class_names), **FUSE | {"num_frames": 4, "frame_size": 40}, class_names=store.class_names)
    rival.eval().save("adafuse.safetensors")
    with pytest.raises(E.EgoDistillError, match=r"contains no baseline; read it with EgoDistill.load\(\)"):
        baselines.Baseline.load("student.safetensors")
    words = ["--split", "test", "--precision", "fp32", "--device", "cpu", "--out", "e.json"]
    run(capsys, "evaluate", "s", "--student", "adafuse.safetensors", *words, main=main)
    found = E.evaluate(rival, store.split("test"), precision="fp32", device="cpu", progress=False)
    assert json.loads(Path("e.json").read_text())["confusion"] == found.confusion.tolist()
    words = ["--batch-size", 2, "--repeats", 1, "--precision", "bf16", "--out", "costs.json"]
    out = run(capsys, "measure", "--student", "adafuse.safetensors", "student.safetensors", *words, main=main)
    costs = json.loads(Path("costs.json").read_text())["models"]
    params = {"adafuse.safetensors": rival, "student.safetensors": E.EgoDistill.load("student.safetensors")}
    for name, model in params.items():
        cost = costs[name]
        assert cost["params"] == sum(p.numel() for p in model.parameters()) and f"{cost['params']:,}" in out
        assert 0 < cost["feature_error"] < 0.5 and f"{100 * cost['feature_error']:.2f} %" in out
    told = "adafuse.safetensors contains a model of the class AdaFuse, which is not of this library; "
    told += "import the module that has it"
    for words in ("measure --student adafuse.safetensors", "evaluate s --split test --student adafuse.safetensors"):
        command = [sys.executable, "-m", "egodistill", *words.split()]
        environment = os.environ | {"PYTHONPATH": str(ROOT)}
        done = subprocess.run(command, env=environment, capture_output=True, text=True)
        assert (done.returncode, done.stderr.strip()) == (1, f"egodistill {words.split()[0]}: {told}")
