"""Table 3: the networks have the published sizes, and the notes name the rules that the numbers follow."""

import torch

from egodistill import inference
from lab import costs


def test_published_numbers_fit_the_rules_that_the_legend_names():
    """fvcore's for Video, thop's for AdaFuse; and the classes by which the networks are built."""
    models = {name: costs.TABLE_3[name][1]() for name in ("AdaFuse", "ListenToLook")}
    with torch.device("meta"):
        models["Video"] = costs.TABLE_3["Video"][1]()
    for name, model in models.items():
        params = sum(parameter.numel() for parameter in model.parameters())
        assert round(params / 1e4) == round(costs.TABLE_3[name][0].params / 1e4), name
    numbers = []
    for layer in models["Video"].modules():
        if isinstance(layer, torch.nn.LayerNorm):
            layer.register_forward_hook(lambda _, inputs, output: numbers.append(output.numel()))
    macs = inference.count_macs(models["Video"], torch.device("meta"))
    last = numbers[0] - numbers[-1]  # As released, the last norm is of all tokens, and all but one are dropped.
    assert round((macs + 5 * (sum(numbers) + last)) / 1e7) == 36951  # our count alone rounds to 369.36
    counts = costs.adafuse_counts(models["AdaFuse"], 0.0)
    assert round(counts["thop_skipping"], 2) == costs.TABLE_3["AdaFuse"][0].gmacs
    legend = " ".join(costs.TABLE_3_LEGEND)
    assert "Video's match fvcore's" in legend and "AdaFuse's and ListenToLook's match thop's" in legend
