"""The command of a study: its options are the fields of the study's plan, and those that every study has."""

from __future__ import annotations

import inspect
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Annotated, Any

import typer
from pydantic.fields import FieldInfo

from raysim.cli.options import Debug
from raysim.exit_status import exit_status
from raysim.studies.of_runs import OfRuns
from raysim.studies.options import Written
from raysim.studies.study import Plan, Study

Resume = Annotated[bool, typer.Option("--resume", help="Measure only the cells that OUT lacks.")]
AtMost = Annotated[
    int | None,
    typer.Option(
        "--at-most",
        min=0,
        metavar="CELLS",
        show_default=False,
        help="Measure at most this many cells now; 0: none, only write the page.",
    ),
]
PageFile = Annotated[
    Path | None,
    typer.Option(
        metavar="FILE",
        dir_okay=False,
        show_default=False,
        help="Also write the page here, to be included by one in the folder above.",
    ),
]


def command_of(study: Study[Any, Any], out: str | None = None) -> Callable[..., None]:
    """What typer makes a command of. Its help is the study's docstring. out: the default of --out, in which fields of the
    plan may stand, `runs/{paper}`.
    """

    def command(
        context: typer.Context,
        out: str,
        resume: bool,
        page: Path | None,
        debug: bool,
        at_most: int | None = None,
        **_: Any,
    ) -> None:
        with exit_status(debug):
            from raysim.studies.runner import carry_out

            plan = plan_of(study, context)
            folder = Path(out.format(**plan.model_dump()) if out == place else out)
            typer.echo(carry_out(study, plan, folder, resume=resume, page=page, at_most=at_most))

    place = out or f"runs/bench-{study.name}"

    command.__name__ = study.name
    command.__doc__ = inspect.getdoc(type(study))
    shown = typer.Option(metavar="DIR", help="Where tables, page and figures go.")
    shared = {
        "out": (Annotated[str, shown], place),
        "resume": (Resume, False),
        **({"at_most": (AtMost, None)} if issubclass(study.plan, OfRuns) else {}),
        "page": (PageFile, None),
        "debug": (Debug, False),
    }
    parameters = [
        inspect.Parameter("context", inspect.Parameter.POSITIONAL_OR_KEYWORD, annotation=typer.Context),
        *_of_plan(study),
        *(_parameter(name, *about) for name, about in shared.items()),
    ]
    command.__signature__ = inspect.Signature(parameters)  # type: ignore[attr-defined]
    command.__annotations__ = {parameter.name: parameter.annotation for parameter in parameters}
    return command


def plan_of(study: Study[Any, Any], context: typer.Context) -> Plan:
    """The plan that a command line asks for: of what it does not name, the plan's own defaults are true, which may follow from
    what it names.
    """
    given = {
        name: value
        for name, value in context.params.items()
        if name in study.plan.model_fields
        and value not in (None, [], ())
        and (source := context.get_parameter_source(name)) is not None
        and source.name != "DEFAULT"
    }
    plan: Plan = study.plan(**given)
    return plan


def _of_plan(study: Study[Any, Any]) -> Iterator[inspect.Parameter]:
    """The plan's own fields first, then those that say where it is measured."""
    own = study.plan.__annotations__
    for name, field in sorted(study.plan.model_fields.items(), key=lambda item: item[0] not in own):
        written = next((about for about in field.metadata if isinstance(about, Written)), Written(text=False))
        default = inspect.Parameter.empty if field.is_required() else _shown(field.get_default(), written)
        yield _parameter(name, Annotated[_kind(field, written), _info(name, field, written)], default)


def _parameter(name: str, annotation: object, default: object) -> inspect.Parameter:
    return inspect.Parameter(name, inspect.Parameter.KEYWORD_ONLY, default=default, annotation=annotation)


def _kind(field: FieldInfo, written: Written) -> Any:
    """What the command reads: texts are read by the field."""
    if written.many:
        return list[str] if field.is_required() else list[str] | None
    return str | None if written.text else _without_bounds(field.annotation)


def _without_bounds(annotation: Any) -> Any:
    """`Annotated[int, Ge(1)] | None` as `int | None`: the field checks the bounds."""
    if hasattr(annotation, "__metadata__"):
        return annotation.__origin__
    members = getattr(annotation, "__args__", ())
    if any(hasattr(member, "__metadata__") for member in members):
        found = [_without_bounds(member) for member in members]
        kind = found[0]
        for member in found[1:]:
            kind = kind | member
        return kind
    return annotation


def _info(name: str, field: FieldInfo, written: Written) -> Any:
    text = (field.description or "").strip()
    about: dict[str, Any] = {"help": _sentence(text)}
    if written.metavar:
        about["metavar"] = written.metavar
    if field.is_required() or field.get_default() in (None, ()):
        about["show_default"] = False
    if written.argument:
        return typer.Argument(**about)
    option = written.option or f"--{name.replace('_', '-')}"
    return typer.Option(option, **about)


def _sentence(text: str) -> str | None:
    """With a capital, but for a symbol such as n, and a full stop."""
    first = text.partition(" ")[0].strip(",")
    return f"{text if len(first) == 1 else text[:1].upper() + text[1:]}." if text else None


def _shown(default: Any, written: Written) -> Any:
    """A default as it would be written."""
    if written.many or default is None or default == ():
        return None
    if not written.text or isinstance(default, str):
        return default
    if isinstance(default[0], tuple):
        return ",".join("x".join(map(str, one)) for one in default)
    return ("x" if "x" in written.metavar else ",").join(map(str, default))
