"""What the tests of the command line share."""

from __future__ import annotations

from collections.abc import Iterator

import pytest


@pytest.fixture(scope="module", autouse=True)
def undrawn() -> Iterator[None]:
    """Reports whose figures are put together but not drawn: that is most of a tiny run's cost, and tests/report does it."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("raysim.report.page.data_uri", lambda figure: f"data:,{type(figure).__name__}")
        yield
