"""The example on many devices: the losses and parameters of one device."""

import re
import sys
from collections.abc import Callable
from pathlib import Path
from types import ModuleType

import numpy as np
import pytest
from helpers.scripts import SAME, ran


def check(text: str, devices: int) -> None:
    assert f"128 samples a step, {128 // devices} a device" in text
    losses = [re.findall(r"step +\d+: loss (\S+)", part) for part in text.split("on one device:")]
    assert [len(values) for values in losses] == [4, 4]
    np.testing.assert_allclose(*np.asarray(losses, float), rtol=1e-6)
    (difference,) = re.findall(r"largest difference of a parameter: (\S+);", text)
    assert float(difference) < 1e-6


def test_the_example_runs(
    example: Callable[[str], ModuleType], monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    module = example("many_devices")
    monkeypatch.setattr(sys, "argv", ["many_devices.py", "--steps", "8"])
    module.main()
    check(capsys.readouterr().out, devices=1)


@pytest.mark.slow
@pytest.mark.parametrize("options", ["--devices 2", "--processes 2"])
def test_the_example_runs_on_two_devices(root: Path, options: str) -> None:
    text = ran(root / "examples/many_devices.py", "--steps", "8", *options.split(), flags=SAME, timeout=300).stdout
    check(text, devices=2)
