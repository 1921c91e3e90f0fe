"""What `raysim list` reads in the source is what the imported tables hold."""

from __future__ import annotations

import inspect
import re

import pytest

from raysim.composition import registry
from raysim.composition.catalogue import TABLES, Listed, catalogue
from raysim.errors import ConfigError
from raysim.models import Architecture


@pytest.mark.parametrize("kind", registry.TABLES)
def test_it_is_what_the_table_holds(kind: str) -> None:
    group, table = registry.TABLES[kind]
    assert TABLES[kind][0] == group
    expected = []
    for name, thing in table.items():
        described = thing.build if isinstance(thing, Architecture) else thing
        text = (inspect.getdoc(described) or "").partition("\n")[0]
        assert len(text) > 10
        expected.append(Listed(name, text, getattr(thing, "paper", "")))
    assert list(catalogue(kind)) == expected


def test_every_method_names_its_paper() -> None:
    for kind in ("attacks", "defenses"):
        without = {
            entry.name: entry.paper
            for entry in catalogue(kind)
            if not re.search(r"\w.* (19|20)\d\d$", entry.paper)
        }
        assert without == ({"oracle": "none: calibration only"} if kind == "defenses" else {})


def test_another_kind_is_refused() -> None:
    with pytest.raises(ConfigError, match=r"list: must be one of .* did you mean 'defenses'\?"):
        catalogue("defences")
