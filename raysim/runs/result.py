"""A run's directory, read back: configuration, tables, the final model."""

from __future__ import annotations

import html
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Literal

import numpy as np

from raysim.config.load import load_config
from raysim.config.schema import ExperimentConfig
from raysim.engine.experiment import RunState
from raysim.errors import RaysimError, RecordError
from raysim.formats import UNDEFINED, rate
from raysim.matrix.layout import Layout
from raysim.runs import checkpoint
from raysim.runs.directory import LAYOUT, RunDirectory, digest
from raysim.trees import Row

if TYPE_CHECKING:
    import pandas as pd
    import pyarrow as pa
    import torch

TableName = Literal["rounds", "clients", "spans"]

SHOWN: Mapping[str, str] = {
    "main_accuracy": "main accuracy",
    "attack_success_rate": "attack success",
    "malicious": "attackers",
    "flagged": "flagged",
    "recall": "recall",
    "precision": "precision",
    "fpr": "FPR",
}
"""Columns of `rounds` that a notebook shows, and their headings."""

ROUNDS_SHOWN = 10
"""How many rounds a notebook shows: the last ones."""


@dataclass(frozen=True, repr=False)
class RunResult:
    """A run's directory, read back whenever it is asked; the run may still be going on.

    `table(name)` is a table as Arrow, `frame(name)` as pandas, `rounds` the rows of one of them as dicts, for a look at
    `result.rounds[-1]["main_accuracy"]`. Raises RecordError if the directory lacks what is asked for.
    """

    path: Path

    @property
    def config(self) -> ExperimentConfig:
        """The resolved configuration."""
        return load_config(self.path / "config.yaml")

    def table(self, name: TableName) -> pa.Table:
        """One of the tables documented in `raysim.runs.directory.COLUMNS`: `rounds`, `clients` or `spans`."""
        return RunDirectory(self.path).read(name)

    def frame(self, name: TableName) -> pd.DataFrame:
        """The same table as a pandas frame; needs pandas, which raysim does not install by itself."""
        try:
            import pandas  # noqa: F401
        except ModuleNotFoundError as error:
            raise ModuleNotFoundError("frame needs pandas (pip install pandas); table does not") from error
        return self.table(name).to_pandas()

    @property
    def rounds(self) -> list[Row]:
        """The rows of the table `rounds`, one a finished round."""
        rows: list[Row] = self.table("rounds").to_pylist()
        return rows

    @property
    def global_vector(self) -> np.ndarray:
        """The final global parameters and buffers [d + b] float32, as in the newest checkpoint."""
        saved = checkpoint.checkpoints(self.path / "checkpoints")
        if not saved:
            raise RecordError(f"{self.path} has no checkpoint yet")
        return RunState.from_tree(checkpoint.load(saved[-1])).global_vector

    def state_dict(self) -> dict[str, torch.Tensor]:
        """The final model, for `load_state_dict` of the module that was trained: parameters and buffers by name.

        Buffers that the module does not keep in its own `state_dict` are among them, and of parameters that it uses
        twice only the first name: such a module takes `strict=False`.
        """
        file = self.path / LAYOUT
        try:
            layout = Layout.from_tree(json.loads(file.read_text()))
        except FileNotFoundError as error:
            raise RecordError(f"{file}: missing, as in runs of version 0.1") from error
        except (OSError, KeyError, TypeError, ValueError) as error:
            raise RecordError(f"{file} is damaged: {type(error).__name__}: {error}") from error
        return layout.state_dict(self.global_vector)

    @property
    def digest(self) -> str:
        """SHA-256 of the final global vector."""
        return digest(self.global_vector)

    def __repr__(self) -> str:
        try:
            return f"RunResult({str(self.path)!r}: {_story(self.config, self.rounds)})"
        except RaysimError as error:
            return f"RunResult({str(self.path)!r}: {error})"

    def _repr_html_(self) -> str:
        try:
            rounds = self.rounds
        except RaysimError:
            rounds = []
        shown = [name for name in SHOWN if any(_known(row[name]) for row in rounds)]
        heading = "".join(
            f"<th>{html.escape(text)}</th>" for text in ("round", *(SHOWN[name] for name in shown))
        )
        body = "".join(
            f"<tr>{''.join(f'<td>{_cell(row[name])}</td>' for name in ('round', *shown))}</tr>"
            for row in rounds[-ROUNDS_SHOWN:]
        )
        caption = f"<caption>{html.escape(repr(self))}</caption>"
        return f"<table>{caption}<thead><tr>{heading}</tr></thead><tbody>{body}</tbody></table>"


def _story(config: ExperimentConfig, rounds: list[Row]) -> str:
    """`krum against noise, 5 of 5 rounds, main accuracy 0.877`."""
    defense = " + ".join(step.name for step in config.defense)
    attack = " + ".join(attack.name for attack in config.attack) or "no attack"
    story = f"{defense} against {attack}, {len(rounds)} of {config.rounds} rounds"
    measured = [row["main_accuracy"] for row in rounds if _known(row["main_accuracy"])]
    return f"{story}, main accuracy {rate(measured[-1])}" if measured else story


def _known(value: float | None) -> bool:
    return value is not None and value == value


def _cell(value: float | None) -> str:
    if value is None or value != value:
        return UNDEFINED
    return str(value) if isinstance(value, int) else rate(value)
