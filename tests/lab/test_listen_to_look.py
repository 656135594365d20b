"""ListenToLook: the released model number by number, its parts, its training through the shared loop."""

import pytest
import torch
from small_baselines import META, Store, close, cost, given, listener
from torch.utils.flop_counter import FlopCounterMode
from toys import QUIET

import egodistill as E
from egodistill import inference
from egodistill.engine import batches
from lab.listen_to_look import ListenToLook

# --- Golden vectors: what the released code gave for weights and inputs that follow from their names


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


# --- Part by part


def test_listener_has_a_gru_for_several_frames():
    assert listener().gru is None and listener(gru=True).gru is not None
    model = listener(num_frames=3).eval()
    frames, audio = batches.example_inputs(model, 2)
    with torch.no_grad():
        assert not torch.allclose(model(frames, audio).feature, model(frames.flip(1), audio).feature, atol=1e-7)


# --- Through the shared loop


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
    with pytest.raises(E.EgoDistillError, match=r"no array 'audio'.*store\.add\(\) writes it"):
        E.distill(listener(), store, teacher="t", epochs=1, **QUIET)


# --- Values that are not the usual ones, and numbers by an independent computation


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
