"""`raysim data`: data sets as shards on disk, of which a run reads what its cohorts hold."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated

import typer

from raysim.cli.options import Debug, Request
from raysim.config.load import load_config
from raysim.data.shard_index import Index
from raysim.exit_status import exit_status
from raysim.formats import size

app = typer.Typer(
    help="Write data sets as shards, of which a run reads what its cohorts hold; check such folders.",
    no_args_is_help=True,
    rich_markup_mode=None,
)


@app.command()
def shard(
    request: Request = None,
    out: Annotated[
        Path,
        typer.Option(metavar="DIR", file_okay=False, help="The folder of the shards, new or empty."),
    ] = Path("shards"),
    debug: Debug = False,
) -> None:
    """Write the data of a configuration, as its partition deals it to clients.

    \b
    raysim data shard quickstart data.partition=dirichlet population.clients=100 --out digits-100
    raysim data shard data.name=femnist data.partition=natural population.clients=3500 --out femnist
    raysim run data.name=shards data.root=digits-100 data.partition=natural population.clients=100

    Arrow IPC files sorted by client, with an index. A run neither loads the training set nor sends it to other machines:
    whoever hosts clients reads their samples where they lie, so all machines need the folder under the same path.
    `raysim.write_shards` writes data of your own, client by client, of any size.
    """
    with exit_status(debug):
        from raysim.composition.sharding import write_data

        words = request or []
        named = words[:1] if words and "=" not in words[0] else []
        _tell(out, write_data(load_config(named[0] if named else None, words[len(named) :]), out))


@app.command()
def check(
    folder: Annotated[Path, typer.Argument(metavar="DIR", help="A folder of shards.", show_default=False)],
    debug: Debug = False,
) -> None:
    """Read every file of a folder of shards and compare its SHA-256 with that of the index.

    \b
    raysim data check digits-100
    """
    with exit_status(debug):
        from raysim.data import shards

        _tell(folder, shards.check(folder))


def _tell(folder: Path, index: Index) -> None:
    """One line about what is there."""
    samples, files = sum(part.rows for part in index.train), sum(part.bytes for part in index.files)
    inputs = f"{index.stored} {'x'.join(map(str, index.shape))}"
    typer.echo(
        f"{folder}: {index.clients.clients:,} clients, {samples:,} training samples of {inputs}, "
        f"{len(index.train)} shards, {size(files)}, digest {index.digest}"
    )
