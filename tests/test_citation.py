"""`citation` prints the papers that docstrings name."""

import importlib
import inspect
import pkgutil

import equinox as eqx
import pytest

import scorefp as sfp
from scorefp._citation import docstrings, entries, named

pytestmark = pytest.mark.quick


def cited(capsys: pytest.CaptureFixture[str], *objects: object) -> set[str]:
    sfp.citation(*objects)
    text = capsys.readouterr().out
    return {key for key in entries() if f"{{{key}," in text}


def test_every_paper_that_a_docstring_names_has_an_entry() -> None:
    for module in pkgutil.walk_packages(sfp.__path__, "scorefp."):
        held = vars(importlib.import_module(module.name)).values()
        for obj in (x for x in held if inspect.isclass(x) or inspect.isfunction(x)):
            if obj.__module__ == module.name:
                keys = [key for text in docstrings(obj) for key in named(text)]
                assert set(keys) <= set(entries()), f"{module.name}.{obj.__name__}: give papers.bib an entry"


def test_entries_are_whole() -> None:
    for key, entry in entries().items():
        assert entry.count("{") == entry.count("}")
        assert all(f"{field} = {{" in entry for field in ("author", "title", "year")), key


def test_names_of_papers() -> None:
    text = """One (Lai 2023, Eq. 9; LeCun, Bottou, Bengio & Haffner 1998; Salimans & Ho
        2022), Müller & Brown 1979 and Song 2021b; Eq. 20, 2000 draws"""
    assert named(text) == ["lai2023", "lecun1998", "salimans2022", "muller1979", "song2021b"]


def test_an_object_is_cited_with_what_it_holds(capsys: pytest.CaptureFixture[str]) -> None:
    loss = sfp.DSM() + 0.1 * sfp.ScoreFPE()
    assert {"vincent2011", "lai2023"} <= cited(capsys, loss)
    assert "lai2023" not in cited(capsys, sfp.DSM())
    sde = sfp.Cosine()
    assert "nichol2021" in cited(capsys, sfp.Score(lambda t, x: -x, sde))
    assert "hang2023" in cited(capsys, sfp.DSM(weighting=sfp.objective.MinSNRWeighting()))
    assert cited(capsys, {"a": [sfp.likelihood.log_likelihood]}) == {"song2021"}
    energy = sfp.DistancePotential(lambda t, x: x, sfp.VP())
    assert "salimans2021" in cited(capsys, energy)
    assert "plainer2025" in cited(capsys, sfp.Smoothed)
    assert cited(capsys, eqx.filter_jit(sfp.edm_loss)) == {"karras2022"}


def test_without_objects_it_is_the_software(capsys: pytest.CaptureFixture[str]) -> None:
    assert cited(capsys) == set()
    sfp.citation()
    text = capsys.readouterr().out
    assert "@software{scorefp," in text
    assert sfp.__version__ in text
    assert "citation(score, loss, …)" in text
