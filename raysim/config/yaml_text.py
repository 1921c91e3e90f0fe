"""YAML as this project reads it: plain values, within bounds.

Every text of YAML from outside is read here: files, presets, overrides, `--defense`, options of benches. Values are
null, booleans, numbers, texts, lists and mappings; a date stays the text it is. Refused before anything is built:
texts, nesting and expanded aliases beyond the bounds below, an alias inside what it stands for, tags, keys given
twice, whole numbers beyond 64 bits.
"""

from __future__ import annotations

from collections.abc import Hashable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

import yaml

from raysim.errors import ConfigError

MOST_BYTES = 2**20
MOST_NODES = 100_000
"""Values in a text, each alias counted as all that it stands for."""
MOST_DEPTH = 32
"""Lists and mappings inside one another."""
WHOLE_NUMBERS = range(-(2**63), 2**64)

_INT, _MERGE = "tag:yaml.org,2002:int", "tag:yaml.org,2002:merge"
_Base: type[Any] = getattr(yaml, "CSafeLoader", yaml.SafeLoader)


def read_text(path: Path, key: str = "config") -> str:
    """A file's text; ConfigError under `key` for one that is not a file, is too large, unreadable or not UTF-8."""
    try:
        if path.exists() and not path.is_file():
            rule = "must be a file"  # a pipe would keep its reader waiting
        else:
            with open(path, "rb") as file:
                content = file.read(MOST_BYTES + 1)
            if len(content) <= MOST_BYTES:
                return content.decode()
            rule = f"must be a file of at most {MOST_BYTES} bytes"
    except OSError as error:
        rule = f"must be a readable file ({error.strerror})"
    except UnicodeDecodeError as error:
        rule = f"must be text in UTF-8 ({error.reason})"
    except ValueError as error:
        rule = f"must be the name of a file ({error})"
    raise ConfigError(key, rule, str(path))


def values_in(text: str, key: str, source: object = None) -> Any:
    """The values in a text of YAML; ConfigError under `key` for what is not valid, plain or within the bounds.

    source: what the error shows as received; default: the text.
    """
    received = text if source is None else source
    if len(text) > MOST_BYTES:
        raise ConfigError(key, f"must be YAML of at most {MOST_BYTES} characters", received)
    try:
        _check_bounds(text)
        return yaml.load(text, _Loader)  # a SafeLoader, see below
    except yaml.YAMLError as error:
        raise ConfigError(key, f"must be valid YAML ({_problem(error)})", received) from None


class _Loader(_Base):  # type: ignore[misc]
    """PyYAML's SafeLoader for plain values alone."""

    yaml_implicit_resolvers: ClassVar[dict[str, object]] = {
        first: [(tag, pattern) for tag, pattern in resolvers if not tag.endswith((":timestamp", ":value"))]
        for first, resolvers in _Base.yaml_implicit_resolvers.items()
    }

    def construct_mapping(self, node: yaml.MappingNode, deep: bool = False) -> dict[Hashable, object]:
        """The mapping, unless a key is given twice; what `<<` brings may be given again."""
        own = [key for key, _ in node.value if isinstance(key, yaml.ScalarNode) and key.tag != _MERGE]
        seen = set()
        for key in own:
            value = self.construct_object(key)
            if value in seen:
                raise _refused(f"the key {value!r} is given twice", key)
            seen.add(value)
        mapping: dict[Hashable, object] = super().construct_mapping(node, deep)
        return mapping

    def construct_object(self, node: yaml.Node, deep: bool = False) -> object:
        """The value of a node, unless it is not what its tag says, or nothing that files and systems can hold."""
        try:
            if node.tag == _INT and len(node.value) > 100:  # PyYAML would take hours over 1:1:1:...
                raise ValueError("too long")
            value = super().construct_object(node, deep)
            if isinstance(value, int) and value not in WHOLE_NUMBERS:
                raise ValueError("too large")
            if isinstance(value, str) and "\0" in value.encode().decode():
                raise ValueError("NUL")
        except (ValueError, OverflowError, LookupError):
            rule = "a text must be Unicode without NUL, a number well-formed, and a whole one within 64 bits"
            raise _refused(rule, node) from None
        return value


@dataclass
class _Open:
    """A list or mapping that is being read, or the whole text: what it holds so far, with aliases expanded."""

    anchor: str | None
    nodes: int = 1
    height: int = 0


def _check_bounds(text: str) -> None:
    """YAMLError if a text is too deep or too much, or an alias has no end; builds nothing."""
    known: dict[str, _Open] = {}
    stack = [_Open(None)]
    for event in yaml.parse(text, _Base):
        found = None
        if (tag := getattr(event, "tag", None)) not in (None, "!"):
            raise _refused(f"the tag {tag} must be left out", event)
        if isinstance(event, yaml.CollectionStartEvent):
            stack.append(_Open(event.anchor))
        elif isinstance(event, yaml.CollectionEndEvent):
            found = stack.pop()
            found.height += 1
        elif isinstance(event, yaml.ScalarEvent):
            found = _Open(event.anchor)
        elif isinstance(event, yaml.AliasEvent) and event.anchor is not None:
            if any(group.anchor == event.anchor for group in stack):
                raise _refused(f"the alias *{event.anchor} lies inside what it stands for", event)
            found = known.get(event.anchor, _Open(None))  # the composer refuses one that is unknown
        if found is not None:
            if found.anchor is not None:
                known[found.anchor] = found
            stack[-1].nodes += found.nodes
            stack[-1].height = max(stack[-1].height, found.height)
        if len(stack) - 1 + stack[-1].height > MOST_DEPTH:
            raise _refused(f"at most {MOST_DEPTH} lists and mappings may lie inside one another", event)
        if sum(group.nodes for group in stack) > MOST_NODES:
            raise _refused(f"at most {MOST_NODES} values are read, each alias counted as all of them", event)


def _problem(error: yaml.YAMLError) -> str:
    """What is wrong and where: PyYAML's words without the text around it."""
    mark, problem = getattr(error, "problem_mark", None), getattr(error, "problem", None)
    if mark is None or problem is None:
        return " ".join(str(error).split())
    return f"line {mark.line + 1}, column {mark.column + 1}: {problem}"


def _refused(problem: str, place: yaml.Node | yaml.Event) -> yaml.YAMLError:
    mark: Any = place.start_mark  # libyaml's, too, which the stubs do not expect there
    return yaml.constructor.ConstructorError(None, None, problem, mark)
