"""From the label columns of two splits to class numbers 0..C-1 that mean the same class in both."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from raysim.errors import DataError

SHOWN = 5
"""Labels that a message lists at most."""


@dataclass(frozen=True)
class LabelColumn:
    """One split's labels as stored: the distinct values, which of them each row holds, and what numbers are called.

    values [v]: distinct whole numbers, names or truth values; rows [n]: each row's place in `values`; names: the
    name of class number i, where the file says so. where: what errors call the column.
    """

    where: str
    values: Sequence[int | str]
    rows: np.ndarray
    names: Sequence[str] | None = None

    @property
    def meanings(self) -> list[int | str]:
        """What each of `values` stands for: its name where numbers have names, else itself."""
        for value in self.values:
            if not isinstance(value, str) and value < 0:
                raise DataError(
                    f"{self.where} holds the label {value}, which stands for a label that is not given:"
                    " drop these rows, or number the classes from 0"
                )
            if self.names is not None and not isinstance(value, str) and value >= len(self.names):
                raise DataError(
                    f"{self.where} holds the label {value}, but there are names for {len(self.names)} classes"
                )
        if self.names is None:
            return list(self.values)
        return [value if isinstance(value, str) else self.names[value] for value in self.values]


def encode(
    train: Sequence[LabelColumn], test: Sequence[LabelColumn]
) -> tuple[tuple[str, ...], np.ndarray, np.ndarray, tuple[str, ...]]:
    """Class names, the int64 labels of both splits' rows, and notes on what was decided about them.

    train, test: the columns of each split's files, in order. Classes are those the training files name, or
    else the labels they hold, sorted: numbers that are not 0..C-1 already are mapped, which a note says. Where
    files name their numbers in different orders, labels are matched by name. Raises DataError for a test label
    that is none of the classes, names that differ, and labels that are neither whole numbers nor names.
    """
    names = _names_of_all([*train, *test])
    train, test = (
        [column if column.names else replace(column, names=names) for column in split]
        for split in (train, test)
    )
    held = [column.meanings for column in train]
    notes: tuple[str, ...] = ()
    if names is not None:
        classes: list[int | str] = list(names)
    else:
        classes = sorted(
            {value for values in held for value in values}, key=lambda item: (str(type(item)), item)
        )
        if len({type(value) for value in classes}) > 1:
            raise DataError(f"{train[0].where} holds labels of several types: {_some(classes)}")
        if type(classes[0]) is int and classes[-1] != len(classes) - 1:
            notes = (
                f"{train[0].where}: labels {_some(classes)} are classes 0..{len(classes) - 1}, in this order",
            )
    places = {value: place for place, value in enumerate(classes)}
    for column in test:
        if unknown := [value for value in column.meanings if value not in places]:
            raise DataError(f"{column.where}: labels the training set lacks: {_some(unknown)}")
    labels = [
        np.concatenate(
            [
                np.array([places[value] for value in column.meanings], np.int64)[column.rows]
                for column in split
            ]
        )
        for split in (train, test)
    ]
    return tuple(map(str, classes)), labels[0], labels[1], notes


def _names_of_all(columns: Sequence[LabelColumn]) -> Sequence[str] | None:
    """The class names in the order of the first file that has them, once all files that have them agree.

    A file without names for its numbers is read with those.
    """
    named = [column for column in columns if column.names is not None]
    if not named:
        return None
    first = named[0].names
    assert first is not None, "chosen for its names"
    for column in named:
        if list(column.names or ()) == list(first):
            continue
        if len(set(first)) < len(first) or sorted(column.names or ()) != sorted(first):
            raise DataError(
                f"{column.where} names the classes {_some(column.names or ())}, {named[0].where}"
                f" {_some(first)}: all files of a data set must name the same classes"
            )
    return first


def _some(values: Sequence[object]) -> str:
    shown = ", ".join(map(str, values[:SHOWN]))
    return shown if len(values) <= SHOWN else f"{shown}, ... ({len(values)})"
