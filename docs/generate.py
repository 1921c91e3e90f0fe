"""Pages of the documentation that are made from the code when the site is built, as a hook of mkdocs.

A page that exists as a file may hold a marker (`<!-- columns -->`), which the generated text replaces; the others are
generated whole. Nothing here is typed by hand that the code knows.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from importlib import import_module
from pathlib import Path
from textwrap import dedent
from typing import Annotated, get_origin

import typer
from mkdocs.config.defaults import MkDocsConfig
from mkdocs.structure.files import File, Files
from typer.main import get_command

import raysim
from raysim.cli.main import app
from raysim.composition.description import Description, describe
from raysim.composition.registry import TABLES
from raysim.config.explain import Key, explained
from raysim.config.preset_list import preset_descriptions
from raysim.config.schema import ExperimentConfig
from raysim.options import allowed, type_name
from raysim.presets import Preset, generated
from raysim.runs.directory import COLUMNS


def on_files(files: Files, config: MkDocsConfig) -> Files:
    """Add the generated pages."""
    for name, page in PAGES.items():
        files.append(File.generated(config, f"reference/{name}.md", content="\n".join(page()) + "\n"))
    return files


def on_page_markdown(markdown: str, **_: object) -> str:
    """Fill the markers in, and the tables of results."""
    markdown = with_tables(markdown)
    for marker, text in MARKERS.items():
        if f"<!-- {marker} -->" in markdown:
            markdown = markdown.replace(f"<!-- {marker} -->", "\n".join(text()))
    return markdown


def on_page_content(html: str, **_: object) -> str:
    """In tables a mean and its interval stay on one line, and names are broken at their joints alone (see style/tables.css)."""
    html = NAME_IN_TABLE.sub(lambda found: re.sub(r"[._]", r"\g<0><wbr>", found.group()), html)
    return html.replace(" ± ", "\u00a0±\u00a0")


def with_tables(markdown: str) -> str:
    """A page of results with its tables, and the figure that leads the first of them right under the title.

    What made a table becomes a block of its own whatever stands before it: indented text would go on with a list.
    """
    first, *others = INCLUDED.split(markdown)
    title, _, text = first.partition("\n\n")
    for number, (path, after) in enumerate(zip(others[::2], others[1::2], strict=True)):
        about, _, table = (DOCS / path).read_text(encoding="utf-8").partition("\n\n")
        figure, _, rest = table.partition("\n\n")
        if number == 0 and figure.startswith("!["):
            title, table = f"{title}\n\n{figure}", rest
        text += f"```text\n{dedent(about)}\n```\n\n{table}{after}"
    return f"{title}\n\n{text}" if text else title


def configuration() -> Iterator[str]:
    """Every key, by group."""
    yield "# Configuration"
    yield ""
    yield "A configuration is a YAML file, a preset, or a mapping in Python; `KEY=VALUE` on the command line changes single"
    yield "keys. This page is what `raysim show --explain` prints."
    groups: dict[str, list[Key]] = {}
    for key in explained():
        groups.setdefault(key.name.rpartition(".")[0], []).append(key)
    for group, keys in groups.items():
        yield from (
            "",
            f"## {group or 'The run'}",
            "",
            "| key | value | default | meaning |",
            "|---|---|---|---|",
        )
        for key in keys:
            value = ", ".join(part for part in (key.kind, key.range) if part)
            yield f"| `{key.name}` | {cell(value)} | `{key.default}` | {cell(key.meaning)} |"


def methods(kind: str) -> Iterator[str]:
    """Every component of a kind as `raysim list KIND NAME` describes it, after a table of all."""
    yield from (
        f"# {TITLES.get(kind, kind.capitalize())}",
        "",
        f"`raysim list {kind} NAME` prints one of these.",
        "",
    )
    every = [describe(kind, name) for name in TABLES[kind][1]]
    yield from ("| name | what | paper |", "|---|---|---|")
    yield from (f"| [`{one.name}`](#{one.name}) | {cell(one.title)} | {cell(one.paper)} |" for one in every)
    for one in every:
        yield from method(one)


def method(one: Description) -> Iterator[str]:
    """One component: what it does, what it needs, its options, how it is named in a configuration."""
    yield from ("", f"## {one.name} {{ #{one.name} }}", "", one.title)
    for text in (one.reference, *one.text.split("\n\n")):
        yield from ("", escaped(text))
    if one.facts:
        yield from ("", *(f"- *{what}*: {escaped(text)}" for what, text in one.facts))
    if one.options:
        yield from ("", "| option | value | default | meaning |", "|---|---|---|---|")
        for option in one.options:
            kind = "" if option.kind == "name" else option.kind
            value = ", ".join(part for part in (kind, option.range) if part)
            yield f"| `{option.name}` | {cell(value)} | `{option.default}` | {cell(option.meaning)} |"
    yield from ("", "```console", f"$ {one.example_command}", "```")


def command_line() -> Iterator[str]:
    """The help of every command, as it is printed."""
    yield "# Command line"
    yield from commands(get_command(app), ["raysim"])


def commands(command: typer.core.TyperCommand, names: Sequence[str], parent: object = None) -> Iterator[str]:
    """This command's help and, if it is a group, that of the commands in it."""
    context = command.make_context(names[-1], [], parent=parent, resilient_parsing=True)
    context.max_content_width = context.terminal_width = 96
    yield from ("", f"## {' '.join(names)}", "", "```text", command.get_help(context).rstrip(), "```")
    for name in getattr(command, "commands", {}):
        yield from commands(command.commands[name], [*names, name], context)


def presets() -> Iterator[str]:
    """Whole experiments, by the paper they come from."""
    yield "# Presets"
    yield ""
    yield "Whole experiments, to run (`raysim run PRESET`) or to start from (`raysim show PRESET > mine.yaml`). With"
    yield "`--scale small` each runs in seconds to minutes, with stand-ins for what is too large."
    paper = None
    for name, description in preset_descriptions().items():
        above = name.partition("-")[0] if name in generated() else ""
        if above != paper:
            paper = above
            yield from ("", f"## {above or 'Single'}", "", "| preset | what |", "|---|---|")
        yield f"| `{name}` | {cell(description)} |"


def full_scale() -> Iterator[str]:
    """The papers' cells at full scale, by what they need, with the command for one."""
    papers: dict[str, dict[tuple[str, ...], list[Preset]]] = {}
    for preset in generated().values():
        config = ExperimentConfig.from_mapping(preset.paper)
        cohort, everybody = config.population.cohort_size, config.population.total
        clients = str(everybody) if cohort == everybody else f"{cohort} of {everybody}"
        needs = (str(config.data.name), config.model.name, clients, str(config.rounds))
        papers.setdefault(preset.source, {}).setdefault(needs, []).append(preset)
    heads = (
        "data",
        "network",
        "clients",
        "rounds",
        "cells",
        "of tables and figures",
        "one of them: `raysim reproduce`",
    )
    for paper, rows in papers.items():
        yield from (f"## {TITLES[paper]}", "", f"| {' | '.join(heads)} |", f"|{'---|' * len(heads)}")
        for needs, cells in rows.items():
            tables = ", ".join(dict.fromkeys(cell.table for cell in cells))
            one = f"`{paper} --table {cells[0].table} --match {cells[0].cell} --seeds 0`"
            yield f"| {' | '.join((*needs, str(len(cells)), escaped(tables), one))} |"
        yield ""


def columns() -> Iterator[str]:
    """The tables that a run leaves, column by column."""
    for table, its in COLUMNS.items():
        yield from (f"## {table}.parquet", "", "| column | type | meaning |", "|---|---|---|")
        yield from (f"| `{name}` | {kind} | {cell(meaning)} |" for name, (kind, meaning) in its.items())
        yield ""


def interface() -> Iterator[str]:
    """All public names: functions, errors, classes, what is none of these, and the types of options."""
    objects = {name: getattr(raysim, name) for name in raysim.__all__ if name != "__version__"}
    documented = {name: thing for name, thing in objects.items() if hasattr(thing, "__module__")}
    groups: Mapping[str, Callable[[object], bool]] = {
        "Functions": lambda thing: callable(thing) and not isinstance(thing, type),
        "Errors": lambda thing: isinstance(thing, type) and issubclass(thing, Exception),
        "Classes": lambda thing: isinstance(thing, type) and not issubclass(thing, Exception),
        "Others": lambda thing: not callable(thing),
    }
    for title, belongs in groups.items():
        yield from (f"## {title}", "")
        for name, thing in documented.items():
            if belongs(thing):
                yield from directive(name, thing)
    yield from ("## Types of options", "", "| name | type | allows |", "|---|---|---|")
    for name, thing in objects.items():
        if get_origin(thing) is Annotated:
            yield f"| `{name}` | {type_name(thing)} | {allowed(thing)} |"


def directive(name: str, thing: object) -> Iterable[str]:
    """What mkdocstrings turns into the documentation of one object, by the module that defines it."""
    module = import_module(thing.__module__)
    return (f"::: {module.__name__}.{name}", "") if hasattr(module, name) else ()


def escaped(text: str) -> str:
    """Text of a docstring that is not markup, but for what stands between backticks."""
    parts = text.split("`")
    parts[::2] = [re.sub(r"([*_<\[\]|])", r"\\\1", part) for part in parts[::2]]
    return "`".join(parts)


def cell(text: str) -> str:
    """Text in a cell of a table."""
    return escaped(" ".join(text.split()))


DOCS = Path(__file__).parent
NAME_IN_TABLE = re.compile(r"(?<=<code>)[\w.]+(?=</code>(</a>)?</td>)")
INCLUDED = re.compile(r'^--8<-- "(results/tables/.+\.md)"$', re.MULTILINE)
TITLES = {
    "datasets": "Data sets",
    "gcama": "GradCAM-AE",
    "layercam_ae": "LayerCAM-AE",
    "fedgrad": "FedGrad",
    "pdrr": "PDRR",
    "flare": "FLARE",
}
KINDS = ("attacks", "defenses", "models", "datasets", "partitions", "devices")
PAGES = {
    "configuration": configuration,
    "cli": command_line,
    "presets": presets,
    **{kind: partial(methods, kind) for kind in KINDS},
}
MARKERS = {"columns": columns, "api": interface, "full scale": full_scale}
