"""What an editor says of a user's program: basedpyright and mypy find nothing, and the program runs."""

import json
import os
import subprocess
import sys
from pathlib import Path

import pytest

PROGRAM = Path(__file__).with_name("user_program.py")


def ran(*command: str, root: Path, folder: Path) -> str:
    """What a module of Python prints, in a folder without settings; the program sees the package of this tree."""
    paths = {"PYTHONPATH": str(root), "MYPYPATH": str(root)}
    done = subprocess.run(
        [sys.executable, "-m", *command], cwd=folder, env=os.environ | paths, capture_output=True, text=True
    )
    assert done.returncode == 0, done.stdout + done.stderr
    return done.stdout


def test_basedpyright_finds_nothing(root: Path, tmp_path: Path) -> None:
    settings = {"typeCheckingMode": "standard", "include": [str(PROGRAM)], "extraPaths": [str(root)]}
    (tmp_path / "pyrightconfig.json").write_text(json.dumps(settings))
    out = ran("basedpyright", "--pythonpath", sys.executable, root=root, folder=tmp_path)
    assert "0 errors, 0 warnings" in out


@pytest.mark.slow
def test_mypy_finds_nothing(root: Path, tmp_path: Path) -> None:
    # optax and lineax ship no types; what mypy says of the packages that the program imports is not the user's concern.
    options = ("--disable-error-code=import-untyped", "--follow-imports=silent", "--cache-dir", f"{root}/.cache/mypy")
    assert "Success" in ran("mypy", *options, str(PROGRAM), root=root, folder=tmp_path)


@pytest.mark.quick
def test_the_program_runs(root: Path, tmp_path: Path) -> None:
    assert "mean norm" in ran("tests.typing.user_program", root=root, folder=tmp_path)
