"""What the layers of a model are given."""

import torch
from torch import nn

from egodistill.engine import batches


def check_channels_last(model: nn.Module) -> None:
    """Raise AssertionError unless all convolutions get channels_last. Where a map is 1 x 1 there is no telling."""
    told = []

    def tell(layer, inputs, output):
        if output.shape[1] > 1 and output.shape[2] * output.shape[3] > 1:
            told.append(output.is_contiguous(memory_format=torch.channels_last))

    for layer in model.modules():
        if isinstance(layer, nn.Conv2d):
            layer.register_forward_hook(tell)
    with torch.no_grad():
        model(*batches.example_inputs(model, 2))
    assert len(told) >= 20 and all(told)
