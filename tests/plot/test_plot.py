"""Figures: what is drawn, and where it is written."""

import sys
from pathlib import Path

import jax.random as jr
import numpy as np
import pytest
from helpers.references import multiple
from helpers.refusals import refused

import scorefp as sfp
from scorefp import plot
from scorefp.diagnostics import Audit, CurlCurve, Ensemble, MatchingCurve

ENSEMBLE = Ensemble(4, 20)


def report(scale: float) -> Audit:
    measures = (MatchingCurve(ENSEMBLE), CurlCurve(ensemble=ENSEMBLE))
    return sfp.audit(multiple(scale), jr.normal(jr.key(0), (20, 2)), key=jr.key(1), measures=measures)


def test_curves_are_drawn_and_compared(tmp_path: Path) -> None:
    reports = {"exact": report(1.0), "half": report(0.5)}
    for name, figure in {
        "one.png": reports["exact"].plot(tmp_path / "one.png"),
        "two.png": plot.compare(reports, tmp_path / "two.png"),
    }.items():
        assert (tmp_path / name).stat().st_size > 10_000
        assert len(figure.axes) == 4
        assert {axes.get_xlabel() for axes in figure.axes} == {"t"}
    drawn = plot.compare(reports)
    assert [text.get_text() for text in drawn.legends[0].get_texts()] == ["exact", "half"]
    curve = reports["half"]["matching"].curves["r_DSM"]
    line = drawn.axes[0].lines[1]
    assert np.array_equal(np.asarray(line.get_xdata()), curve.t)
    assert np.array_equal(np.asarray(line.get_ydata()), curve.value)
    assert "1/length" in drawn.axes[0].get_title()
    # The errors of matching are on a logarithmic axis; the curl, which is zero, cannot be.
    assert [axes.get_yscale() for axes in drawn.axes] == ["log", "log", "linear", "linear"]
    refused("reports is empty", plot.compare, {})


def test_images_stand_in_a_grid(tmp_path: Path) -> None:
    flat = np.linspace(-1.0, 1.0, 5 * 16).reshape(5, 16)
    flat[4, 0] = np.nan
    figure = plot.image_grid({"flat": flat, "square": flat.reshape(5, 4, 4)}, tmp_path / "grid.png", columns=3)
    assert (tmp_path / "grid.png").exists()
    assert [axes.get_title() for axes in figure.axes] == ["flat", "square"]
    boards = [np.asarray(axes.images[0].get_array()) for axes in figure.axes]
    assert boards[0].shape == (9, 14, 3)
    assert np.array_equal(*boards)
    assert np.allclose(boards[0][0, 5], (flat[1, 0] + 1) / 2)
    assert np.allclose(boards[0][5, 5], (0.8, 0.1, 0.1))
    assert np.all(boards[0][4] == 1)
    coloured = plot.image_grid({"rgb": np.arange(24.0).reshape(2, 3, 2, 2)}, limits=(0.0, 30.0))
    assert np.allclose(np.asarray(coloured.axes[0].images[0].get_array())[0, 0], np.array([0, 4, 8]) / 30)
    oblong = plot.image_grid({"wide": np.arange(12.0).reshape(2, 6)}, columns=2, shape=(2, 3))
    assert np.asarray(oblong.axes[0].images[0].get_array()).shape == (2, 7, 3)


@pytest.mark.quick
def test_what_is_no_image_is_refused() -> None:
    refused("groups is empty", plot.image_grid, {})
    with pytest.raises(ValueError, match=r"noise has samples of shape \(5,\), .* Give shape=\(h, w\)"):
        plot.image_grid({"noise": np.arange(10.0).reshape(2, 5)})
    refused("no range of values", plot.image_grid, {"flat": np.ones((2, 4))})
    refused("columns = 0", plot.image_grid, {"flat": np.ones((2, 4))}, columns=0)
    refused("black is below white", plot.image_grid, {"flat": np.ones((2, 4))}, limits=(1.0, 0.0))


@pytest.mark.quick
@pytest.mark.usefixtures("unchecked")
def test_other_kinds_of_arguments_are_refused() -> None:
    good = {"noise": np.linspace(0.0, 1.0, 32).reshape(2, 16)}
    for groups, message in {
        "array": (good["noise"], "groups is an array"),
        "complex": ({"noise": good["noise"] + 1j}, "noise has dtype complex128; it holds real numbers"),
        "words": ({"noise": "abc"}, "noise is a str; it holds real numbers"),
        "objects": ({"noise": np.asarray([[None] * 16])}, "noise has dtype object"),
    }.values():
        refused(message, plot.image_grid, groups, error=TypeError)
    for shape in ((2, 1, 1, 4, 4), (2, 4, 4, 3), (0, 16), (16,)):
        refused("noise has s", plot.image_grid, {"noise": np.ones(shape)})
    for limits in ((np.nan, 1.0), (0.0, np.inf), (0.0,), (0, 1, 2)):
        refused(r"limits = .*; it is (\(black, white\)|a finite number)", plot.image_grid, good, limits=limits)
    for name, value in {"limits": [0, 1], "columns": 2.5, "shape": 4, "path": 3}.items():
        refused(rf"{name} (=|is) ", lambda given: plot.image_grid(good, **given), {name: value}, error=TypeError)
    refused("limits is 'a'; it is a real number", plot.image_grid, good, limits=("a", "b"), error=TypeError)
    refused("reports is a list", plot.compare, [1], error=TypeError)
    refused(r"reports\['a'\] is 1", plot.compare, {"a": 1}, error=TypeError)
    # Bytes and half precision are drawn as they are.
    for dtype in (np.uint8, np.float16):
        assert len(plot.image_grid({"noise": np.arange(32).reshape(2, 16).astype(dtype)}).axes) == 1


@pytest.mark.quick
def test_missing_matplotlib_names_the_remedy(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(sys.modules, "matplotlib.figure", None)
    with pytest.raises(ImportError, match=r"pip install 'scorefp\[plot\]'"):
        plot.image_grid({"flat": np.arange(8.0).reshape(2, 4)})
