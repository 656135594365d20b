"""The curves of a training."""

import math

import numpy as np

from egodistill.drawing import curves


def rows(epochs=4):
    speed = {"learning_rate": 1e-4, "clips_per_second": 9.0, "loader_share": 0.1}
    return [{"loss": 2 / (k + 1), "kd": 0.01 / (k + 1), "top1": 0.1 * k} | speed for k in range(epochs)]


def test_losses_and_accuracies_have_a_panel_each(drawn, tmp_path):
    curves.draw_curves(rows(), tmp_path / "s.png", "student.pt", "egodistill distill")
    losses, shares = drawn[0].axes
    assert drawn[0].get_suptitle() == "student.pt: 4 epochs"
    assert [line.get_label() for line in losses.lines] == ["loss", "L_KD, teacher's classes"]
    np.testing.assert_allclose(losses.lines[0].get_data(), [[1, 2, 3, 4], [2, 1, 2 / 3, 0.5]])
    np.testing.assert_allclose(shares.lines[0].get_ydata(), [0, 10, 20, 30])
    assert len(shares.lines) == 1 and losses.get_yscale() == "log"


def test_validation_is_dashed_and_the_kept_epoch_marked(drawn, tmp_path):
    scores = (0.2, 0.5, 0.5, 0.1)  # of equal epochs the earlier one, as the training does
    history = [
        row | {"validation_loss": 1.0, "validation_top1": score} for row, score in zip(rows(), scores, strict=True)
    ]
    curves.draw_curves(history, tmp_path / "s.png", "student.pt")
    top1, checked, _, kept = drawn[0].axes[1].lines
    assert (top1.get_linestyle(), checked.get_linestyle()) == ("-", "--") and top1.get_color() == checked.get_color()
    np.testing.assert_allclose(checked.get_ydata(), [20, 50, 50, 10])
    assert list(kept.get_xdata()) == [2, 2] and "epoch 2" in kept.get_label()


def test_any_history_can_be_drawn(drawn, tmp_path):
    """One epoch; no accuracy; a loss of 0, below 0 or unknown; terms that come late."""
    for history in ([{"loss": 1.0}], [{"loss": -1.0}, {"loss": 5.0}], [{"loss": 0.0}, {"loss": math.nan, "own": 2.0}]):
        curves.draw_curves(history, tmp_path / "s.png", "student.pt")
        (axes,) = drawn[-1].axes
        assert axes.get_yscale() == "linear"


def test_without_labels_the_epoch_of_the_lowest_loss_is_kept(drawn, tmp_path):
    history = [row | {"validation_loss": loss} for row, loss in zip(rows(), (3.0, 2.0, 0.5, 0.9), strict=True)]
    curves.draw_curves(
        [{name: row[name] for name in ("loss", "validation_loss")} for row in history], tmp_path / "s.png", "i"
    )
    *_, kept = drawn[0].axes[0].lines
    assert list(kept.get_xdata()) == [3, 3] and kept.get_label() == "epoch 3: its weights are kept"
