"""Weighted samples: their rates against residuals, and their laws against quadrature [W1]-[W4]."""

import jax
import jax.numpy as jnp
import jax.random as jr
import numpy as np
from helpers.tempered import LINE, OTHER_LINE, assert_law, line_law

import scorefp as sfp
from scorefp.sampling import weighted_samples

SDE = sfp.VP(t0=1e-3)


def test_annealing_needs_the_weights() -> None:
    """Mode masses, moments and the ratio of normalisers by quadrature; without the weights they are far off."""
    one = LINE().score(SDE)
    for beta in (0.5, 2.0):
        score, method = sfp.Annealed(one, beta), sfp.FeynmanKac(steps=200)
        law = line_law(lambda x, beta=beta: beta * one.potential(SDE.t0, x))
        found = weighted_samples(score, 32, key=jr.key(2), method=method)
        assert_law(found, law)
        plain = sfp.sample(score, 32 * 1024, key=jr.key(0), method=sfp.EulerMaruyama(200))
        assert law.off(plain) > 10


def test_resampled_samples_have_the_law() -> None:
    one, other = LINE().score(SDE), OTHER_LINE().score(SDE)
    score = sfp.Product((one, other))
    law = line_law(lambda x: one.potential(SDE.t0, x) + other.potential(SDE.t0, x))
    x = sfp.sample(score, 5000, key=jr.key(1), method=sfp.FeynmanKac(steps=200))
    assert x.shape == (5000, 1)
    found = np.asarray(jax.vmap(law.statistics)(x)).mean(axis=0)
    np.testing.assert_allclose(found, law.values, atol=0.05)
    assert len(jnp.unique(x)) > 1000
