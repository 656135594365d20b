"""The first figure of the README: what the script draws is what is committed."""

import importlib.util
from pathlib import Path

import numpy as np
import pytest

import egodistill

FOLDER = Path(egodistill.__file__).parent / "figures"
pytestmark = pytest.mark.skipif(not FOLDER.is_dir(), reason="not a checkout: an installed package has no figures")


def test_the_committed_figure_is_what_the_script_draws(tmp_path, monkeypatch):
    """Up to what another version of a codec or of a font changes."""
    pyplot = pytest.importorskip("matplotlib.pyplot")
    found = importlib.util.spec_from_file_location("idea", FOLDER / "idea.py")
    idea = importlib.util.module_from_spec(found)
    found.loader.exec_module(idea)
    monkeypatch.setattr(idea, "HERE", tmp_path)
    idea.main()
    drawn, committed = (pyplot.imread(folder / "idea.png") for folder in (tmp_path, FOLDER))
    assert drawn.shape == committed.shape and np.abs(drawn - committed).mean() < 0.002
