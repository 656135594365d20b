"""The confusion matrix and the accuracy of each class."""

import itertools

import numpy as np
import pytest

from egodistill.drawing import confusion


def names_of(axis):
    return [label.get_text() for label in axis.get_ticklabels()]


def test_rows_are_shares_of_the_true_classes(drawn, tmp_path):
    """A class that does not occur is left out; one that is only predicted is drawn, without an accuracy."""
    found = np.array([[6, 2, 0, 2], [0, 5, 0, 0], [0, 0, 0, 0], [0, 0, 0, 0]])
    confusion.draw_confusion(found, ["open", "close", "fly", "cut"], tmp_path / "e.png", "student.pt")
    matrix, bars = drawn[0].axes
    assert names_of(matrix.yaxis) == names_of(matrix.xaxis) == ["open", "close", "cut"]
    np.testing.assert_allclose(matrix.images[0].get_array(), [[60, 20, 20], [0, 100, 0], [0, 0, 0]])
    shown = {(t.get_position()[1], t.get_position()[0]): (t.get_text(), t.get_color()) for t in matrix.texts}
    assert shown == {  # white on dark blue, black on light blue, nothing where nothing is
        (0, 0): ("60", "white"),
        (0, 1): ("20", "black"),
        (0, 2): ("20", "black"),
        (1, 1): ("100", "white"),
    }
    assert (matrix.get_xlabel(), matrix.get_ylabel()) == ("predicted class", "true class")
    assert matrix.get_title(loc="left") == "share of each true class (%)" and matrix.images[0].get_clim() == (0, 100)
    assert [bar.get_width() for bar in bars.patches] == [60, 100] and bars.get_xlim() == (0, 100)
    assert [round(bar.get_y() + bar.get_height() / 2) for bar in bars.patches] == [0, 1]
    assert all(bar.get_height() < 1 for bar in bars.patches) and (bars.get_xlabel(), bars.get_title(loc="left")) == (
        "%",
        "accuracy by class",
    )
    assert [(text.get_position()[1], text.get_text()) for text in bars.texts] == [(0, "60 % of 10"), (1, "100 % of 5")]
    assert (
        not any(label.get_visible() for label in bars.yaxis.get_ticklabels()) and not bars.spines["left"].get_visible()
    )
    assert drawn[0].get_suptitle() == "student.pt: top-1 73.3 % of 15 segments"


@pytest.mark.parametrize("classes", [97, 3806])
def test_of_many_classes_the_most_frequent_are_drawn(drawn, tmp_path, classes):
    counts = np.arange(1, classes + 1)  # the last ones are the most frequent
    found = np.diag(counts - counts // 4)
    found[:, 0] += counts // 4  # a quarter is taken for a rare class
    confusion.draw_confusion(found, [f"class {k}" for k in range(classes)], tmp_path / "e.png", "student.pt")
    matrix, bars = drawn[0].axes
    shown = [f"class {k}" for k in range(classes - 30, classes)]
    assert names_of(matrix.yaxis) == shown and names_of(matrix.xaxis) == [*shown, "other classes"]
    shares = np.asarray(matrix.images[0].get_array())
    np.testing.assert_allclose(shares.sum(1), 100)
    np.testing.assert_allclose(shares[:, -1], (100 * (counts // 4) / counts)[-30:])
    assert len(bars.patches) == 30
    written = {(round(t.get_position()[1]), round(t.get_position()[0])): t.get_text() for t in matrix.texts}
    assert written == {place: f"{share:.0f}" for place, share in np.ndenumerate(shares) if share >= 5}
    assert f"the 30 most frequent of {classes} classes" in drawn[0].get_suptitle()
    width, height = drawn[0].get_size_inches()
    assert width < 20 and height < 20


def test_names_do_not_overlap(drawn, tmp_path):
    names = [f"{k} " + 30 * "long " for k in range(60)]
    confusion.draw_confusion(3 * np.eye(60, dtype=int), names, tmp_path / "e.png", "student.pt")
    labels = [label.get_window_extent() for label in drawn[0].axes[0].yaxis.get_ticklabels()]
    assert len(labels) == 30 and not any(one.overlaps(other) for one, other in itertools.pairwise(labels))
