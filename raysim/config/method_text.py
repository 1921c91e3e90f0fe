"""A method with its options in one word: `krum,num_byzantine=3`. The same on every command, and in YAML."""

from __future__ import annotations

from collections.abc import Iterator, Sequence

from raysim.config.yaml_text import values_in
from raysim.errors import ConfigError
from raysim.trees import Tree

FORM = "must have the form name,key=value,..."


def parse_method(kind: str, text: str) -> Tree:
    """The method that a word names, as a mapping with `name`; values are YAML. ConfigError under `kind` for another form.

    >>> parse_method("defense", "pdrr,rule=median,q=0.9")
    {'name': 'pdrr', 'rule': 'median', 'q': 0.9}
    """
    name, *pairs = parts(text)
    if not name or "=" in name:
        raise ConfigError(kind, f"{FORM}: it begins with a name", text)
    values: Tree = {"name": name}
    for pair in pairs:
        key, equals, value = pair.partition("=")
        if not equals or not key or key == "name":
            raise ConfigError(kind, FORM, text)
        values[key] = values_in(value, f"{kind}.{key}" if kind else key)
    return values


def split_methods(kind: str, texts: Sequence[str]) -> list[str]:
    """Words from lists with commas, in which a part with "=" is an option of the name before it.

    >>> split_methods("defense", ["krum,pdrr,rule=median,q=0.9", "median"])
    ['krum', 'pdrr,rule=median,q=0.9', 'median']
    """
    words: list[str] = []
    for text in texts:
        found = [part for part in parts(text) if part]
        if found and "=" in found[0]:
            raise ConfigError(kind, "must begin with a name", text)
        for part in found:
            if "=" in part:
                words[-1] += f",{part}"
            else:
                words.append(part)
    return words


def parts(text: str) -> list[str]:
    """What lies between the commas that are not inside brackets.

    >>> parts("maps,hidden=[4, 8],seed=1")
    ['maps', 'hidden=[4, 8]', 'seed=1']
    """
    return [part.strip() for part in _cut(text)]


def _cut(text: str) -> Iterator[str]:
    depth = start = 0
    for place, letter in enumerate(text):
        depth += (letter in "[{") - (letter in "]}")
        if letter == "," and depth <= 0:
            yield text[start:place]
            start = place + 1
    yield text[start:]
