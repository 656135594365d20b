"""Image networks of torchvision by name: they build, run and train; others are refused."""

import pytest
import torch
import torchvision
from torch import nn

from egodistill import EgoDistill, student
from egodistill.engine import image_encoders

# The smallest network of each kind, and the others, whose code is the same.
SMALLEST = ["alexnet", "convnext_tiny", "densenet121", "efficientnet_b0", "efficientnet_v2_s", "mnasnet0_5"]
SMALLEST += ["mobilenet_v2", "mobilenet_v3_small", "regnet_y_400mf", "resnet18", "resnet50", "resnext50_32x4d"]
SMALLEST += ["shufflenet_v2_x0_5", "squeezenet1_1", "swin_t", "swin_v2_t", "vgg11", "vgg11_bn", "vit_b_32"]
LARGER = sorted({*image_encoders.IMAGE_ENCODERS} - {*SMALLEST})
SLOW = pytest.mark.slow("larger networks of a kind whose smallest is tried: 35 s for all of them")


@pytest.mark.parametrize(
    "name", [*SMALLEST, *(pytest.param(name, marks=SLOW) for name in LARGER if not name.startswith("regnet"))]
)
def test_image_encoders_by_name(name):
    """They build, run and train without their classifiers."""
    # RegNets draw first weights in a way that the meta device does not have.
    with torch.device("cpu" if name.startswith("regnet") else "meta"):
        model = EgoDistill(4, image_encoder=name, image_weights=None, imu_encoder=None, feature_dim=12, hidden=16)
        assert model.frame_size == image_encoders.IMAGE_ENCODERS[name]
        size = model.frame_size if name.startswith("vit_") else 64
        frames = torch.zeros(2, 1, 3, size, size, dtype=torch.uint8)
        for mode in (True, False):
            feature, logits = model.train(mode)(frames)
            assert feature.shape == (2, 12) and logits.shape == (2, 4)


def test_resnet18_starts_from_the_weights_of_the_papers_time_and_others_from_the_best():
    taken = [image_encoders.published_weights(name).name for name in ("resnet18", "resnet50", "mobilenet_v2")]
    assert taken == ["IMAGENET1K_V1", "IMAGENET1K_V2", "IMAGENET1K_V2"]


def test_networks_of_torchvision_that_do_not_serve_are_refused():
    names = set(torchvision.models.list_models(module=torchvision.models))
    assert names >= set(image_encoders.IMAGE_ENCODERS) | set(image_encoders.UNFIT_ENCODERS)
    for name in image_encoders.UNFIT_ENCODERS:
        with pytest.raises(ValueError, match=rf"{name}.*cannot be used: .*IMAGE_ENCODERS lists all"):
            EgoDistill(4, image_encoder=name, image_weights=None)
    with pytest.raises(ValueError, match="needs 224-pixel frames; got frame_size=64"):
        EgoDistill(4, image_encoder="vit_b_32", image_weights=None, frame_size=64)


def test_frames_have_the_size_and_statistics_of_the_networks_weights():
    sizes = {"resnet18": 224, "resnet10x8": 224, "efficientnet_b3": 300}
    assert {name: student.preprocessing(name)[0] for name in sizes} == sizes
    for name, given in (("mobilenet_v3_small", 64), ("vit_b_32", 224)):
        assert EgoDistill(2, image_encoder=name, image_weights=None, frame_size=given).frame_size == given
    for name, size in image_encoders.IMAGE_ENCODERS.items():
        published = torchvision.models.get_model_weights(name)["DEFAULT" if name != "resnet18" else "IMAGENET1K_V1"]
        transforms = published.transforms()
        assert student.preprocessing(name)[1:] == (tuple(transforms.mean), tuple(transforms.std)), name
        first = torchvision.models.get_model_weights(name)["IMAGENET1K_V1"].transforms()
        assert [size] == transforms.crop_size == first.crop_size, name


def test_no_encoder_of_torchvision_has_narrow_shortcuts():
    """All of its strided 1x1 convolutions are wider than the broken kernels, so that they are left as they are."""
    found = []
    for name in ("resnet18", "resnet50", "regnet_x_400mf", "regnet_y_400mf"):  # the kinds that have such layers
        for layer in torchvision.models.get_model(name, weights=None).modules():
            if isinstance(layer, nn.Conv2d) and layer.kernel_size == (1, 1) and layer.stride != (1, 1):
                found.append(layer.in_channels // layer.groups)
    assert len(found) == 14 and min(found) >= student.MAX_BLOCK
