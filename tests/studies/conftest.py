"""What the tests of studies share."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest


@pytest.fixture
def drawn() -> None:
    """Asked for by tests whose figures are drawn."""


@pytest.fixture(autouse=True)
def undrawn(request: pytest.FixtureRequest) -> Iterator[None]:
    """Figures of pages are put together but not drawn, unless `drawn` is asked for: that is most of a tiny page's cost."""

    def save(figure: Any, path: Path) -> None:
        for ending in ("svg", "png"):
            path.with_name(f"{path.name}.{ending}").write_text("not drawn")

    with pytest.MonkeyPatch.context() as patch:
        if "drawn" not in request.fixturenames:
            patch.setattr("raysim.studies.figure.save", save)
        yield
