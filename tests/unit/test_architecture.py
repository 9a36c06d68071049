"""`docs/architecture.md` names files and what stands in them: all of it must be there."""

from __future__ import annotations

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
PAGE = (ROOT / "docs" / "architecture.md").read_text()
NAMED = sorted(set(re.findall(r"`([\w/-]+\.(?:py|rs))` `(\w+)`", PAGE)))


def test_the_page_names_what_it_follows() -> None:
    assert len(NAMED) > 35


@pytest.mark.parametrize(("file", "name"), NAMED)
def test_it_stands_there(file: str, name: str) -> None:
    path = ROOT / ("crates" if file.endswith(".rs") else "python/segue") / file
    pattern = rf"\b(fn|struct|enum) {name}\b" if file.endswith(".rs") else rf"(def|class) {name}\b"
    assert re.search(pattern, path.read_text()), f"{file} has no {name}"
