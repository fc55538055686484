"""A measure by class: what the measure gives on the samples of each class, and what is refused."""

import jax.numpy as jnp
import jax.random as jr
import numpy as np
import pytest
from helpers.refusals import refused

import scorefp as sfp
from scorefp.diagnostics import ByClass, Ensemble, Gap, Likelihood, MatchingCurve, SampleQuality

VP = sfp.VP()
STDS = jnp.array([0.3, 0.6])
LABELS = np.array([0, 1, 1] * 40, np.int32)
"""Forty of one class, and eighty of the other."""

VALUES = STDS[LABELS][:, None] * jr.normal(jr.key(0), (120, 2))
DATA = sfp.Dataset(VALUES, args=jnp.asarray(LABELS))


def gaussian(t, x, *, args):
    """The exact score of the Gaussian of a class."""
    return -x / (VP.alpha(t) ** 2 * STDS[args] ** 2 + VP.sigma(t) ** 2)


SCORE = sfp.Score(gaussian, VP, shape=(2,))


def test_numbers_are_those_of_the_samples_of_a_class() -> None:
    """The negative log-likelihood of each class is its entropy; the same key gives the numbers of the class alone."""
    report = sfp.audit(SCORE, DATA, key=jr.key(1), measures=(ByClass(Likelihood()),))
    section = report["likelihood by class"]
    for label, std in enumerate(STDS.tolist()):
        name = f"negative_log_likelihood of {label}"
        number, entropy = section.numbers[name], np.log(2 * np.pi * np.e * std**2)
        assert number.label.endswith(f", class {label}")
        assert abs(number.value - entropy) < 1.5 * number.half_width < 0.6
        assert section.points[name].shape == (40,)
    values = [section.numbers[f"negative_log_likelihood of {label}"].value for label in (0, 1)]
    assert values[1] - values[0] > 0.7
    assert "class 1" in str(report)
    measure = MatchingCurve(Ensemble(2, 256))
    rare = measure(SCORE, DATA.rows(np.flatnonzero(LABELS == 0)), key=jr.key(2))
    found = ByClass(measure)(SCORE, DATA, key=jr.key(2))
    assert found.numbers["r_DSM of 0"].value == rare.numbers["r_DSM"].value != found.numbers["r_DSM of 1"].value
    assert found.notes == rare.notes


@pytest.mark.parametrize("failing", [0, 1])
def test_a_class_of_which_a_measure_has_less_to_say(failing: int) -> None:
    """All of its samples fail: the numbers of the other class stand, and the share that failed of both."""
    score = sfp.Score(lambda t, x, args: jnp.where(args == failing, jnp.nan, gaussian(t, x, args=args)), VP, (2,))
    section = ByClass(SampleQuality(method=sfp.Heun(4)))(score, DATA, key=jr.key(1))
    assert section.numbers[f"failed of {failing}"].value > 0.9
    assert section.numbers[f"failed of {1 - failing}"].value < 0.1
    assert f"kernel of {1 - failing}" in section.numbers
    assert f"kernel of {failing}" not in section.numbers


def test_labels_beside_the_conditioning() -> None:
    """Of a model that takes none, and of which a number of samples is measured."""
    plain = sfp.Score(lambda t, x: -x, VP)
    measure = MatchingCurve(Ensemble(2, 256))
    found = ByClass(measure, LABELS - 5, samples=10)(plain, VALUES, key=jr.key(2))
    assert list(found.points) == [f"{name} of {c}" for c in (-5, -4) for name in ("r_DSM", "r_DSM_scale_free")]
    assert all(points.shape == (10,) for points in found.points.values())
    assert ByClass(Gap()).needs_kernel == Gap().needs_kernel


def test_errors() -> None:
    measure, key = MatchingCurve(Ensemble(2, 8)), jr.key(0)
    plain = sfp.Score(lambda t, x: -x, VP)
    refused("labels is None: the classes are not known", ByClass(measure), plain, VALUES, key=key)
    refused(r"labels has shape \(119,\); there are 120", ByClass(measure, LABELS[1:]), plain, VALUES, key=key)
    refused("samples = 41, and class 0 has 40", ByClass(measure, LABELS, 41), plain, VALUES, key=key)
    refused(
        "samples = 1, and class 7 has 1", ByClass(measure, np.where(np.arange(120) == 3, 7, 0)), plain, VALUES, key=key
    )
    refused("samples = 1; a measure needs two", ByClass, measure, LABELS, 1)
    floats = sfp.Dataset(VALUES, args=VALUES)
    refused(r"labels is float32\[120, 2\]; the class", ByClass(measure), SCORE, floats, key=key, error=TypeError)
