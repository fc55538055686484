"""What the examples with cells have in common."""

import json
import shutil
from pathlib import Path
from types import ModuleType
from typing import Any

import pytest


def remade(script: ModuleType, root: Path, folder: Path) -> list[dict[str, Any]]:
    """The cells of the documentation, from which the script remakes its tables without training.

    A cell made with other settings is refused.
    """
    name = script.__name__
    committed, out = root / "docs/assets" / name, folder / name
    shutil.copytree(committed, out, ignore=shutil.ignore_patterns("*.md"))
    script.main(["--out", str(out)])
    assert (committed / f"{name}.md").exists()
    for table in committed.glob("*.md"):
        assert (out / table.name).read_text(encoding="utf-8") == table.read_text(encoding="utf-8")
    with pytest.raises(SystemExit, match="made with other settings"):
        script.main(["--out", str(out), "--steps", "3"])
    return [json.loads(cell.read_text(encoding="utf-8")) for cell in out.glob("*.json")]
