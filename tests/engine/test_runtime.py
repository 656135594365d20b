"""Precision and compilation."""

import os
import platform
import subprocess
import sys
import time
from pathlib import Path

import pytest
import torch
from toys import CLASSES, QUIET, Store, small

import egodistill
from egodistill import EgoDistillError, Training, evaluate, measure, predict, training, video_convnets
from egodistill.engine import batches, runtime

ROOT = Path(egodistill.__file__).parent
# `conftest.training_in_fp32` replaces it in `runtime`.
pick_training_precision = runtime.pick_training_precision


def test_convolutions_of_torch_in_3d_do_not_train_in_bf16_on_a_cpu(monkeypatch):
    pretend(monkeypatch, amx_bf16=True)
    foreign, ours = (torch.nn.Sequential(kind(3, 4, 3)) for kind in (torch.nn.Conv3d, video_convnets.Conv3d))
    assert pick_training_precision(CPU, ours)[0] == "bf16"
    assert pick_training_precision(CPU, foreign) == (
        "fp32",
        "torch's bf16 gradients of 3-D convolutions are wrong on CPUs",
    )
    objective = training.Objective(foreign, ["clip"], {"stage": "mine"})
    loop = training.TrainingLoop(objective, Store(8), Training(precision="bf16", **QUIET))
    with pytest.raises(EgoDistillError, match=r"mine: on CPUs, .* such as model\.0 are wrong; .*'fp32' \(--prec"):
        loop.resume()
    assert pick_training_precision(CPU, foreign.requires_grad_(False))[0] == "bf16"


def pretend(monkeypatch, kernels=True, **capabilities):
    """A processor that has these, and a oneDNN with or without bf16 kernels for it."""
    monkeypatch.setattr(torch.cpu, "get_capabilities", lambda: capabilities, raising=False)
    monkeypatch.setattr(runtime, "has_bf16_kernels", lambda: kernels)


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
    fast, why = runtime.bf16_speed(CPU)
    assert fast is (expected == "bf16") and reason in why
    assert runtime.pick_precision(CPU, "auto") == expected
    for given in ("fp32", "bf16", "fp16"):  # what is asked for holds
        assert runtime.pick_precision(CPU, given) == given


@pytest.mark.parametrize(
    ("expected", "reason", "capabilities"),
    [
        ("bf16", "Intel Xeon has AMX", {"avx512_bf16": True, "amx_bf16": True, "cpu_name": "Intel Xeon"}),
        ("bf16", "AMD EPYC has AMX", {"avx512_bf16": True, "amx_bf16": True, "cpu_name": "AMD EPYC"}),
        ("fp32", "AMD EPYC has no AMX", {"avx512_bf16": True, "cpu_name": "AMD EPYC"}),
        ("fp32", "Intel Xeon has no AMX", {"avx512_bf16": True, "amx_bf16": False, "cpu_name": "Intel Xeon"}),
        ("fp32", "this CPU has no AMX", {}),
        ("fp32", "no bf16 kernels", {"amx_bf16": True, "cpu_name": "Intel Xeon", "kernels": False}),
    ],
)
def test_training_on_a_cpu_is_in_bf16_with_amx_only(expected, reason, capabilities, monkeypatch):
    """Nothing is timed: the same processor gives the same precision, so a seed the same weights."""
    pretend(monkeypatch, **capabilities)
    for clock in ("perf_counter", "process_time", "monotonic"):
        monkeypatch.setattr(time, clock, lambda: pytest.fail("timed"))
    found, why = pick_training_precision(CPU, small())
    monkeypatch.undo()
    assert found == expected and reason in why
    assert pick_training_precision(CPU, small().double())[0] == "fp32"


def test_auto_elsewhere(monkeypatch):
    cuda = torch.device("cuda", 1)
    assert runtime.pick_precision(torch.device("mps"), "auto") == "fp32"
    for capability, expected in (((7, 5), "fp32"), ((8, 0), "bf16"), ((12, 0), "bf16")):
        monkeypatch.setattr(torch.cuda, "get_device_capability", lambda device, found=capability: found)
        assert runtime.pick_precision(cuda, "auto") == pick_training_precision(cuda, small())[0] == expected
    monkeypatch.setattr(torch.version, "hip", "6.2")  # Its numbers mean something else.
    assert runtime.pick_precision(cuda, "auto") == "fp32"
    monkeypatch.delattr(torch.cpu, "get_capabilities", raising=False)  # torch 2.4 has none
    assert runtime.pick_precision(CPU, "auto") == "fp32" and "does not describe" in runtime.bf16_speed(CPU)[1]
    assert pick_training_precision(CPU, small())[0] == "fp32"
    for wrong in (lambda: measure(small(), precision="fp8"), lambda: Training(precision="fp8")):
        with pytest.raises(EgoDistillError, match="one of auto, fp32, bf16, fp16; got 'fp8'"):
            wrong()


@pytest.mark.skipif(platform.machine().lower() not in ("x86_64", "amd64"), reason="oneDNN's limit is for x86")
def test_auto_heeds_a_limit_of_the_instruction_set():
    """A limit that oneDNN is given does not change what the processor says of itself."""
    code = (
        "import torch; from egodistill.engine import runtime as r; print(r.pick_precision(torch.device('cpu'), 'auto'))"
    )
    limit = os.environ | {"DNNL_MAX_CPU_ISA": "AVX2"}
    done = subprocess.run([sys.executable, "-c", code], cwd=ROOT, env=limit, capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "fp32"


@pytest.mark.parametrize("amx", [True, False])
def test_inference_runs_in_what_auto_found(amx, sample_data, monkeypatch):
    pretend(monkeypatch, amx_bf16=amx)
    model, store, ran = small(class_names=CLASSES, imu_encoder=None), Store(8), []
    model.classifier.register_forward_hook(lambda layer, inputs, output: ran.append((output.dtype, output.grad_fn)))
    dtype, name = (torch.bfloat16, "bf16") if amx else (torch.float32, "fp32")
    assert evaluate(model, store, **QUIET).precision == name
    next(predict(model, sample_data / "gopro" / "max-heromode.mp4", exact=False, device="cpu"))
    assert ran == [(dtype, None)] * 2
    assert measure(model, batch_size=1, repeats=1, device="cpu").precision == name
    # counted, warmed up and timed; then fp32 again to compare with
    assert [found for found, _ in ran[2:]] == [torch.float32] + [dtype] * 3 + [torch.float32] * amx
    ran.clear()
    assert evaluate(model, store, precision="fp32", **QUIET).precision == "fp32" and ran == [(torch.float32, None)]


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
    plain = evaluate(model, store, batch_size=4, precision="fp32", **QUIET)
    monkeypatch.setattr(torch, "compile", spy)
    fast = evaluate(model, store, batch_size=4, precision="fp32", compile=True, **QUIET)
    assert torch.allclose(fast.scores, plain.scores, atol=1e-6) and sizes == [4, 4]
    cost = measure(model, batch_size=3, repeats=2, device="cpu", precision="fp32", compile=True)
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
    plain = evaluate(model, store, batch_size=4, **QUIET)
    assert not capsys.readouterr().err
    assert torch.equal(evaluate(model, store, batch_size=4, compile=True, **QUIET).scores, plain.scores)
    line = "torch.compile failed, so the model runs uncompiled: No working C++ compiler found\n"
    assert capsys.readouterr().err == line
    video = sample_data / "gopro" / "max-heromode.mp4"
    assert list(predict(model, video, batch_size=2, compile=True)) == list(predict(model, video, batch_size=2))
    assert capsys.readouterr().err == line
    frames, imu = batches.example_inputs(model, 2)
    with pytest.raises(ValueError, match=r"imu must be float \[batch, 422, 6\]"):  # The model's own, and no word more.
        runtime.Compiled(model)(frames, imu[:, 1:])
    assert not capsys.readouterr().err


def test_evaluation_brings_the_model_back(monkeypatch):
    """To its device, after an error, too."""
    model, moves = small(), []
    monkeypatch.setattr(model, "to", lambda device: moves.append(device) or model)
    with pytest.raises(KeyError), runtime.evaluation(model, torch.device("cuda")):
        assert not model.training and moves == [torch.device("cuda")]
        raise KeyError
    assert model.training and moves == [torch.device("cuda"), CPU]


def test_a_device_that_does_not_exist_is_an_error_of_ours():
    for name in ("cpuu", "cuda:99", "hpu", "privateuseone", "vulkan"):
        with pytest.raises(EgoDistillError, match=f"the device '{name}' cannot be used: ") as caught:
            runtime.pick_device(name)
        assert len(str(caught.value)) < 400


def test_a_process_touches_no_gpu_but_its_own(monkeypatch):
    places = []
    monkeypatch.setenv("LOCAL_RANK", "3")
    monkeypatch.setattr(torch, "empty", lambda *shape, device: places.append(device))
    assert runtime.pick_device("cuda") == torch.device("cuda:3") and places == [torch.device("cuda:3")]


def test_evaluation_restores_the_mode_of_each_layer():
    """Some layers were training, others were not, as with frozen batch norms."""
    for outer in (True, False):
        model = small().train(outer)
        model.image_encoder.train(not outer)
        model.imu_encoder.cnn[2].train(not outer)
        modes = [layer.training for layer in model.modules()]
        assert len(set(modes)) == 2
        with runtime.evaluation(model, CPU):
            assert not any(layer.training for layer in model.modules())
        assert [layer.training for layer in model.modules()] == modes


def test_the_last_of_several_users_restores_a_model():
    """As threads of a server: one that is done does not turn dropout on for the others."""
    model = small()
    first, second = runtime.evaluation(model, CPU), runtime.evaluation(model, CPU)
    first.__enter__()
    second.__enter__()
    first.__exit__(None, None, None)
    assert not any(layer.training for layer in model.modules())
    with pytest.raises(EgoDistillError, match="in use on cpu, so it cannot move to meta; load it twice"):
        runtime.evaluation(model, torch.device("meta")).__enter__()
    second.__exit__(None, None, None)
    assert all(layer.training for layer in model.modules())
    with runtime.evaluation(model, CPU):
        assert not model.training


def test_batch_norms_with_frozen_weights_keep_their_statistics():
    """Those that are trained, or have no weights to freeze, stay in training mode."""
    norms = [
        torch.nn.BatchNorm1d(2),
        torch.nn.BatchNorm1d(2),
        torch.nn.BatchNorm1d(2),
        torch.nn.BatchNorm1d(2, affine=False),
    ]
    model = torch.nn.Sequential(*norms, torch.nn.Dropout()).train()
    norms[1].requires_grad_(False)
    norms[2].weight.requires_grad_(False)
    runtime.keep_frozen_statistics(model)
    assert [layer.training for layer in model] == [True, False, False, True, True]
    model(torch.randn(8, 2) + 5)
    assert [bool(norm.running_mean.any()) for norm in norms] == [True, False, False, True]


@pytest.mark.parametrize("kind", [torch.float16, torch.float64])
def test_weights_of_other_types_do_not_run_in_bf16(kind, monkeypatch):
    model, cpu = small().to(kind), torch.device("cpu")
    assert runtime.pick_precision(cpu, "fp32", model) == "fp32"
    monkeypatch.setattr(runtime, "bf16_speed", lambda device: (True, "it is"))
    for precision in ("bf16", "auto"):
        with pytest.raises(EgoDistillError, match=rf"the weights of EgoDistill are {kind} .* do not mix with bf16"):
            runtime.pick_precision(cpu, precision, model)
        assert runtime.pick_precision(cpu, precision, small()) == "bf16"


@pytest.mark.parametrize(("precision", "wanted"), [("fp32", None), ("int8", None), ("bf16", torch.bfloat16)])
def test_autocast_leaves_the_precision_of_exported_programs(precision, wanted):
    with runtime.autocast(torch.device("cpu"), precision):
        found = torch.ones(2, 2) @ torch.ones(2, 2)
    assert found.dtype == (wanted or torch.float32)
