"""What `import raysim` offers: the whole list, how it is documented, and what importing it costs."""

from __future__ import annotations

import ast
import inspect
import pathlib
import subprocess
import sys
from collections import Counter
from importlib import import_module

import pytest

import raysim

PUBLIC = [
    "ACCELERATED",
    "AtLeastTwo",
    "Attack",
    "ClientContext",
    "ClientData",
    "Columns",
    "ConfigError",
    "Context",
    "Count",
    "DataError",
    "DataPool",
    "Dataset",
    "Defense",
    "Devices",
    "Diagnostics",
    "Entry",
    "ExperimentConfig",
    "FederatedData",
    "FlatOptimizer",
    "Fleet",
    "Fraction",
    "InProcessBackend",
    "Layout",
    "LocalTrainer",
    "ModelFactory",
    "ModuleFactory",
    "Needs",
    "NotNegative",
    "Observer",
    "Pairs",
    "Partition",
    "Partitioner",
    "Positive",
    "PositiveFraction",
    "PositiveInt",
    "PreAggregation",
    "Progress",
    "RaysimError",
    "RecordError",
    "Reference",
    "Requirement",
    "RowBlock",
    "RowStage",
    "RunError",
    "RunResult",
    "ServerData",
    "Setting",
    "Speeds",
    "State",
    "TrainingRecipe",
    "Updates",
    "Verdict",
    "View",
    "Visibility",
    "__version__",
    "accepted_mean",
    "chain",
    "devices",
    "evaluate",
    "evaluate_round",
    "find_layers",
    "is_whole",
    "krum_scores",
    "products_with",
    "load_config",
    "nearest_name",
    "nearest_scores",
    "normalise",
    "pair_distances",
    "resume",
    "rows_from",
    "run",
    "session",
    "squared_distances",
    "squares_about",
    "squared_norms",
    "torch_generator",
    "torch_randomness",
    "unknown_name",
    "write_shards",
]

ALIASES = {
    "ACCELERATED": "raysim.backends.base",
    "Columns": "raysim.matrix.column_tasks",
    "Observer": "raysim.runs.execution",
    "Reference": "raysim.backends.base",
    "Diagnostics": "raysim.attack",
    "State": "raysim.context",
    "AtLeastTwo": "raysim.options",
    "Count": "raysim.options",
    "Fraction": "raysim.options",
    "NotNegative": "raysim.options",
    "Positive": "raysim.options",
    "PositiveFraction": "raysim.options",
    "PositiveInt": "raysim.options",
}
"""Names of types that are documented where they are assigned."""

SHORT = 35
"""Characters below which a docstring says nothing that the name does not."""


def members(cls):
    """A class's own public methods and properties: qualified name, function, what `help` says of it."""
    for name, value in vars(cls).items():
        function = (
            getattr(value, "fget", None) or getattr(value, "func", None) or getattr(value, "__func__", value)
        )
        if not name.startswith("_") and inspect.isfunction(function):
            yield f"{cls.__name__}.{name}", function, inspect.getdoc(getattr(cls, name)) or ""


def own_classes():
    return [
        cls
        for cls in (getattr(raysim, name) for name in PUBLIC)
        if inspect.isclass(cls) and cls is not object
    ]


def assigned_docs(tree):
    """Name -> the string that follows its assignment, in a module's or a class's body."""
    found = {}
    for before, after in zip(tree.body, tree.body[1:], strict=False):
        if isinstance(after, ast.Expr) and isinstance(after.value, ast.Constant):
            target = before.targets[0] if isinstance(before, ast.Assign) else getattr(before, "target", None)
            if isinstance(target, ast.Name):
                found[target.id] = after.value.value
    return found


def test_the_list_is_what_is_offered():
    assert sorted(raysim.__all__) == sorted(PUBLIC)
    assert set(PUBLIC) <= set(dir(raysim))
    for name in PUBLIC:
        assert getattr(raysim, name) is not None


def test_an_unknown_name_is_an_attribute_error():
    with pytest.raises(AttributeError, match="no attribute 'Defence'"):
        raysim.Defence  # noqa: B018


def test_importing_raysim_imports_neither_ray_nor_torch():
    code = "import sys, raysim; print({'ray', 'torch', 'numba', 'pyarrow', 'pandas', 'attacks', 'defenses'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_importing_one_method_loads_neither_the_others_nor_torch():
    code = "import sys, defenses.krum, attacks.noise; print({'torch', 'defenses.table', 'attacks.table', 'defenses.flame'} & set(sys.modules))"
    run = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert run.stdout.strip() == "set()"


def test_what_most_methods_here_import_is_public():
    """A method written elsewhere needs what the methods here need; what two files or fewer use may stay inside."""
    uses = Counter()
    for package in ("attacks", "defenses"):
        folder = pathlib.Path(import_module(package).__file__).parent
        for file in folder.glob("*.py"):
            tree = ast.parse(file.read_text())
            uses.update(
                alias.name
                for node in ast.walk(tree)
                if isinstance(node, ast.ImportFrom) and (node.module or "").startswith("raysim.")
                for alias in node.names
            )
    annotations_only = {"Backend"}  # of `updates.backend`, which nobody needs to import
    inside = {name for name, count in uses.items() if count > 2} - set(PUBLIC) - annotations_only
    assert not inside, "public, or named here with the reason"


@pytest.mark.parametrize("name", [name for name in PUBLIC if name not in {*ALIASES, "__version__"}])
def test_every_public_name_is_documented(name):
    value = getattr(raysim, name)
    doc = value.__doc__ or ""
    # A dataclass without a docstring is given its signature.
    assert not doc.startswith(f"{name}("), f"{name} has no docstring"
    assert len(doc) >= SHORT or value is raysim.RaysimError, name


@pytest.mark.parametrize("name", ALIASES)
def test_every_public_type_alias_is_documented(name):
    module = import_module(ALIASES[name])
    assert getattr(module, name) is getattr(raysim, name)
    assert len(assigned_docs(ast.parse(inspect.getsource(module))).get(name, "")) >= SHORT


def functions():
    for name in PUBLIC:
        value = getattr(raysim, name)
        if inspect.isfunction(value):
            yield name, value, inspect.getdoc(value) or ""
    for cls in own_classes():
        yield from members(cls)


@pytest.mark.parametrize(("name", "function", "doc"), [*functions()], ids=[name for name, *_ in functions()])
def test_public_functions_and_methods_say_what_they_do_and_the_shapes_of_arrays(name, function, doc):
    assert doc, name
    annotations = [str(a) for key, a in function.__annotations__.items()]
    if any("ndarray" in a for a in annotations):
        assert "[" in doc, f"{name} takes or gives arrays: {doc}"


@pytest.mark.parametrize("cls", own_classes())
def test_fields_that_hold_arrays_have_shapes(cls):
    body = ast.parse(inspect.getsource(cls)).body[0]
    beside, above = assigned_docs(body), cls.__doc__ or ""
    for name, annotation in vars(cls).get("__annotations__", {}).items():
        if "ndarray" in str(annotation) and not name.startswith("_"):
            text = beside.get(name, "") or above
            assert "[" in text, f"{cls.__name__}.{name} has no shape"


def test_the_contracts_hold_a_complete_example():
    for contract in (raysim.Attack, raysim.Defense):
        assert ">>> @dataclass(frozen=True)" in contract.__doc__
