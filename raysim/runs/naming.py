"""The folder of a run about to start: what a name may be, and that no two runs get the same new one."""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from datetime import datetime
from pathlib import Path

from raysim.errors import ConfigError

LONGEST_NAME = 200
"""Bytes of a run's name: file systems take 255, and temporary names beside it are a little longer."""


@contextmanager
def claimed(out: Path, name: str | None) -> Iterator[Path]:
    """The folder of a run about to start: `out/name`; by default a new one, named by date and time.

    No two callers get the same new one: -2, -3, ... follow where a run began in the same second. It is removed
    again when the request is refused before anything is written. ConfigError for a name that is not one folder's,
    and for a place that cannot be written.
    """
    wanted = str(out.absolute() / (name or ""))
    if any("\ud800" <= letter <= "\udfff" for letter in wanted):  # how Python reads bytes its locale cannot
        rule = "must be text in the locale, which is not UTF-8 here: set PYTHONUTF8=1, or use an ASCII path"
        raise ConfigError("out", rule, wanted)
    if name is not None:
        check_name(name)
    _require_writable(out)
    if name is not None:
        yield out / name
        return
    absent = [folder for folder in (out, *out.parents) if not folder.exists()]
    out.mkdir(parents=True, exist_ok=True)
    path = _make_dated_folder(out)
    try:
        yield path
    finally:
        with suppress(OSError):  # it holds a run, or what was there before is in use by another
            for folder in (path, *absent):
                folder.rmdir()


def check_name(name: str) -> None:
    """ConfigError unless a run's name is that of one folder, which no path and no option can be mistaken for.

    >>> check_name("krum seed 7")
    >>> check_name("../elsewhere")
    Traceback (most recent call last):
    raysim.errors.ConfigError: name: must be one folder's name, without /; received '../elsewhere'
    """
    broken = {
        "must not be empty": not name.strip(),
        "must be one folder's name, without /": "/" in name or os.sep in name,
        "must be a folder's own name, not . or ..": name in (".", ".."),
        "must not begin with -, which begins an option": name.startswith("-"),
        "must hold no control characters": not name.isprintable(),
        f"must be at most {LONGEST_NAME} bytes long": len(os.fsencode(name)) > LONGEST_NAME,
    }
    for rule, is_broken in broken.items():
        if is_broken:
            raise ConfigError("name", rule, name)


def _require_writable(out: Path) -> None:
    """ConfigError unless folders can be made in `out`, or in the nearest folder above it that exists."""
    if "\0" in str(out):
        raise ConfigError("out", "must be a folder's name, and hold no null character", str(out))
    place = next(folder for folder in (out.absolute(), *out.absolute().parents) if folder.exists())
    if not place.is_dir():
        raise ConfigError("out", f"must be a folder, and {place} is a file", str(out))
    if not os.access(place, os.W_OK | os.X_OK):
        raise ConfigError("out", f"must be a folder that can be written, and {place} cannot", str(out))


def _make_dated_folder(out: Path) -> Path:
    name = now = datetime.now().strftime("%Y%m%d-%H%M%S")
    number = 1
    while True:
        try:
            (out / name).mkdir()
            return out / name
        except FileExistsError:
            number += 1
            name = f"{now}-{number}"
