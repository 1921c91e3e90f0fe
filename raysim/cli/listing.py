"""raysim list: the names that a configuration can hold, what one of them is and takes, and the presets."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Annotated

import typer

from raysim.errors import ConfigError, unknown_name
from raysim.exit_status import exit_status
from raysim.report import terminal as results

if TYPE_CHECKING:
    from raysim.composition.description import Description

KINDS: Mapping[str, str] = {
    "attacks": "what malicious clients do: attack.name",
    "defenses": "how the server judges and combines updates: defense.name",
    "datasets": "what is learned: data.name",
    "models": "the network that is trained: model.name",
    "partitions": "how training samples are split among clients: data.partition.name",
    "devices": "what clients run on, in virtual time: population.devices.name",
    "updates": "where a round's updates come from: updates.name",
    "presets": "whole experiments, to run or to start from",
}
"""What can be listed; one of a kind goes without the s."""


def list_names(
    kind: Annotated[
        str | None, typer.Argument(metavar="|".join(KINDS), help="What to list.", show_default=False)
    ] = None,
    names: Annotated[
        list[str] | None,
        typer.Argument(
            metavar="NAME|WORD",
            help="Names, or import paths of your own, to explain; of presets, words to choose by.",
            show_default=False,
        ),
    ] = None,
    every: Annotated[
        bool, typer.Option("--all", help="All presets, not the number of each paper's.")
    ] = False,
) -> None:
    """List what a configuration can name, with one line on each; of a name all there is to know.

    \b
    raysim list defenses
    raysim list defense flame             options, paper, what it needs, how to use it
    raysim list attack mymodule:Mine      of your own
    raysim list presets                   how many of which paper
    raysim list presets flare table2      those whose name and description have these words
    """
    with exit_status():
        if every and kind not in ("presets", "preset"):
            raise ConfigError("--all", "must follow presets; of other kinds all are listed anyway", kind)
        if kind is None:
            _print([(f"raysim list {name}", text) for name, text in KINDS.items()])
            return
        wanted = kind if kind in KINDS else {name.removesuffix("s"): name for name in KINDS}.get(kind)
        if wanted is None:
            raise unknown_name("list", kind, KINDS)
        if wanted == "presets":
            _presets(names or [], every)
        elif names:
            from raysim.composition.description import describe

            for number, name in enumerate(names):
                if number:
                    typer.echo()
                _explain(describe(wanted, name))
        else:
            from raysim.composition.catalogue import catalogue

            entries = catalogue(wanted)
            cited = any(entry.paper for entry in entries)
            _print([(entry.name, entry.text, *([entry.paper] if cited else [])) for entry in entries])


def _presets(words: Sequence[str], every: bool) -> None:
    """Those that the words describe; without words how many there are of each paper."""
    from raysim.config.preset_list import preset_descriptions, preset_groups, presets_with

    if words:
        _print(list(presets_with(words).items()))
        return
    if every:
        _print(list(preset_descriptions().items()))
        return
    groups = preset_groups()
    table = results.grid("preset, or paper", "presets", "")
    table.columns[-1].justify = "left"
    for group in groups:
        table.add_row(group.name, str(group.count), group.description)
    console = results.console()
    console.print(table)
    console.print()
    console.print(
        f"{sum(group.count for group in groups)} in all. Those of a paper, or with several words in name or"
    )
    console.print("description: raysim list presets flare table2; every one: raysim list presets --all")


def _explain(about: Description) -> None:
    """All that is known of one name."""
    console = results.console()
    console.print(f"{about.name}: {about.title}", style="bold")
    rows = [("paper", about.paper), ("source", about.reference), *about.facts, ("code", about.place)]
    _print([row for row in rows if row[1]])
    console.print()
    if about.options:
        table = results.grid("option", "type", "default", "range", "meaning")
        for column in table.columns[1:]:
            column.justify = "left"
        for option in about.options:
            table.add_row(option.name, option.kind, option.default, option.range, option.meaning)
        console.print(table)
    else:
        console.print("no options")
    if about.text:
        console.print()
        console.print(about.text)
    if about.choices or about.kin:
        console.print()
        _print(
            [
                *(("variants", choice) for choice in about.choices),
                *((f"see {name}", text) for name, text in about.kin),
            ]
        )
    console.print()
    console.print(
        f"in a file:            {about.example_yaml}".replace("\n", "\n" + 22 * " "), soft_wrap=True
    )
    console.print(f"on the command line:  {about.example_command}", soft_wrap=True)


def _print(rows: Sequence[Sequence[str]]) -> None:
    table = results.grid()
    for row in rows:
        table.add_row(*row)
    results.console().print(table)
