"""Types of what comes out of files, of which only the file's schema or its reader knows more."""

from __future__ import annotations

from typing import Any

Tree = dict[str, Any]
"""Nested dicts, lists, numbers, strings, booleans and None, as JSON and YAML hold them."""

Row = dict[str, Any]
"""One row of a table as Arrow gives it: column -> a value of the column's type, or None."""
