"""Figure 3: a line for each method, points in the order of their cost."""

import contextlib

from egodistill.support import files
from lab import figures, intervals, paper
from lab.benches import Run


def test_figure_has_a_line_for_each_method(tmp_path, monkeypatch):
    from matplotlib.figure import Figure

    drawn = []
    monkeypatch.setattr(Figure, "savefig", lambda figure, *_, **__: drawn.append(figure))
    monkeypatch.setattr(files, "atomic_write", contextlib.nullcontext)
    methods = [("EgoDistill", n) for n in (4, 1, 2)] + [("STTS full", 4), ("STTS T0.5-S0.7", 4), ("VisOnly", 1)]
    table = [
        paper.Row(name, n, "", 50.0 + n, 1.0, [], 0.1 * n * len(name), 1, 1.0, {}, Run(name, frames=n))
        for name, n in methods
    ]
    unknown = table[-1]._replace(method="teacher", gmacs=None)  # its cost is not known: no point
    table[2] = table[2]._replace(interval=intervals.Interval(52.0, 49.0, 56.0, 4.0, 0.1, 3, 3))
    ceilings = {("EgoDistill", 2): 85.0, ("VisOnly", 1): 60.0, ("AdaFuse", 8): 70.0}  # AdaFuse is not drawn
    ceilings["teacher", 1] = 90.0
    paths = figures.draw([*table, unknown], tmp_path / "figure", "A title", ceilings)
    assert [path.name for path in paths] == ["figure.png", "figure.svg"]
    axes = drawn[0].axes[0]
    lines = {one.get_label(): one for one in axes.containers}
    assert set(lines) == {"EgoDistill", "STTS", "VisOnly"}
    limits = [one for one in axes.lines if one.get_markersize() == 26 and len(one.get_xdata())]
    at = {(row.method, row.frames): row.gmacs for row in table}
    assert [one.get_xydata().tolist() for one in limits] == [[[at["EgoDistill", 2], 85.0]], [[at["VisOnly", 1], 60.0]]]
    assert [one.get_color() for one in limits] == [figures.STYLES[name]["color"] for name in ("EgoDistill", "VisOnly")]
    (bars,) = (part.get_segments() for part in lines["EgoDistill"].lines[2])
    assert [(low, high) for (_, low), (_, high) in bars] == [
        (50.0, 52.0),
        (49.0, 56.0),
        (53.0, 55.0),
    ]  # deviations and an interval
    x, y = lines["EgoDistill"].lines[0].get_data()
    assert list(x) == sorted(x) and list(y) == [51.0, 52.0, 54.0]
    assert axes.get_xscale() == "log" and "GMACs" in axes.get_xlabel() and "%" in axes.get_ylabel()
    assert {text.get_text() for text in axes.texts} == {"N = 1", "N = 2", "N = 4"}
    assert axes.get_ylim()[1] > 85  # a limit of the inputs is above all points
    wide = table[0]._replace(interval=intervals.Interval(54.0, 0.0, 98.0, 1.0, 0.5, 2, 3))
    figures.draw([wide, *table[1:]], tmp_path / "wide")
    assert drawn[-1].axes[0].get_ylim() == (31.0, 74.0)  # a long interval does not flatten the figure
    figures.draw([unknown], tmp_path / "empty")


def test_the_same_figure_gives_the_same_bytes(tmp_path):
    row = paper.Row("EgoDistill", 1, "", 76.2, 1.1, [], 0.057, None, None, {}, None)
    written = [[path.read_bytes() for path in figures.draw([row], tmp_path / name)] for name in ("a", "b")]
    assert written[0] == written[1] and b"<dc:date>" not in written[0][1]
