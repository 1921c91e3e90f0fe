"""A round of many small row blocks: stacked for column tasks, with the bytes of one that is not."""

from __future__ import annotations

from typing import Any

import pytest

import raysim
from raysim.matrix import stacking


def test_a_run_has_the_same_bytes_with_and_without_stacks(
    tiny: dict[str, Any], tmp_path: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = {**tiny, "attack": "alie", "resources": {"clients_per_actor": 1}}
    plain = raysim.run(config, name="plain", out=tmp_path, backend="inprocess")
    monkeypatch.setattr(stacking, "FEW", 2)
    stacks = raysim.run(config, name="stacks", out=tmp_path, backend="inprocess")
    assert stacks.digest == plain.digest
    done = {name: {span["stage"] for span in run.table("spans").to_pylist()} for name, run in
            (("plain", plain), ("stacks", stacks))}  # fmt: skip
    assert done["stacks"] - done["plain"] == {"stack"}
