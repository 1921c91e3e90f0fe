"""Examples in docstrings shown as code: an extension of griffe, which reads the sources for the API page."""

from __future__ import annotations

import re

import griffe

EXAMPLE = re.compile(r"(?:^>>> .*\n?)(?:^\S.*\n?)*", re.MULTILINE)


class Doctests(griffe.Extension):
    """Puts each `>>>` block, with what it prints, into a fence."""

    def on_object(self, *, obj: griffe.Object, **_: object) -> None:
        if obj.docstring and ">>> " in obj.docstring.value:
            text = obj.docstring.value + "\n"
            obj.docstring.value = EXAMPLE.sub(lambda found: f"```pycon\n{found[0].rstrip()}\n```\n", text)
