"""What the examples with cells have in common."""

import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def remade(script: ModuleType, root: Path, folder: Path) -> list[dict[str, Any]]:
    """The cells of the documentation, from which the script remakes its table without training.

    A cell made with other settings is refused.
    """
    name = script.__name__
    committed, out = root / "docs/assets" / name, folder / name
    shutil.copytree(committed, out)
    script.main(["--out", str(out)])
    written, wanted = ((place / f"{name}.md").read_text(encoding="utf-8") for place in (out, committed))
    assert written == wanted
    with pytest.raises(SystemExit, match="made with other settings"):
        script.main(["--out", str(out), "--steps", "3"])
    return [json.loads(cell.read_text(encoding="utf-8")) for cell in out.glob("*.json")]
