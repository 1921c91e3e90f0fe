"""The index of a folder of shards (`shards.json`): what its inputs are, and every file with its size and SHA-256."""

from __future__ import annotations

import hashlib
from pathlib import Path
from typing import Annotated, Literal

from pydantic import BaseModel, ConfigDict, Field, ValidationError

from raysim.errors import DataError

INDEX, OFFSETS, TEST = "shards.json", "clients.arrow", "test.arrow"
INPUT, LABEL = "input", "label"

Stored = Literal["uint8", "int8", "uint16", "int16", "uint32", "int32", "int64", "float16", "float32"]
"""Types that inputs are stored in."""
Read = Literal["uint8", "float32", "int64"]
"""Types that they are read as: those of a `Dataset`."""

Files = Annotated[str, Field(pattern=r"^[A-Za-z0-9_.-]+$")]
Number = Annotated[int, Field(ge=0)]


class _Entry(BaseModel):
    model_config = ConfigDict(frozen=True, extra="forbid", strict=True)


class Part(_Entry):
    """One file: its rows, the clients whose samples it holds, bytes, and SHA-256."""

    file: Files
    rows: Number
    clients: Number
    bytes: Number
    sha256: str


class Index(_Entry):
    """What `shards.json` says. inputs are stored as `stored` and read as `read`, times `scale` where that is float32."""

    version: Literal[1] = 1
    shape: Annotated[tuple[Annotated[int, Field(ge=1)], ...], Field(min_length=1)]
    stored: Stored
    read: Read
    scale: float
    mean: tuple[float, ...]
    std: tuple[float, ...]
    attack_std: tuple[float, ...] | None = None
    classes: tuple[str, ...]
    labels: tuple[Number, Number]
    """The lowest and the highest label of the training samples."""
    clients: Part
    test: Part
    train: Annotated[tuple[Part, ...], Field(min_length=1)]

    @property
    def digest(self) -> str:
        """SHA-256 of the index, and so of all that it has the SHA-256 of: the first 16 digits."""
        return hashlib.sha256(self.model_dump_json().encode()).hexdigest()[:16]

    @property
    def files(self) -> tuple[Part, ...]:
        """Every file."""
        return (*self.train, self.clients, self.test)

    def alone(self, number: int) -> Index:
        """The index with one shard."""
        return self.model_copy(update={"train": (self.train[number],)})


def read_index(folder: Path) -> Index:
    """The folder's index; DataError if there is none, or if it is none."""
    path = folder / INDEX
    try:
        return Index.model_validate_json(path.read_bytes())
    except FileNotFoundError:
        rule = "its index, which is written last: the folder is another, or writing it was not finished"
        raise DataError(f"shards: {folder} holds no {INDEX}, {rule}") from None
    except ValidationError as error:
        first = error.errors()[0]
        place = ".".join(map(str, first["loc"]))
        raise DataError(f"{path}: {place}: {first['msg']}; write the folder again") from None
    except OSError as error:
        raise DataError(f"{path} cannot be read: {error}") from error
