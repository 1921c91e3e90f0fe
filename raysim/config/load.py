"""A configuration from a YAML file or a preset, with overrides."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Literal

from raysim.config.overrides import apply_overrides
from raysim.config.schema import ExperimentConfig
from raysim.config.yaml_text import read_text, values_in
from raysim.errors import ConfigError, nearest_name
from raysim.presets import PRESETS, generated


def load_config(
    source: str | Path | None = None,
    overrides: Sequence[str] = (),
    scale: Literal["paper", "small"] = "paper",
) -> ExperimentConfig:
    """A configuration from a YAML file or the name of a preset, with `KEY=VALUE` overrides.

    Nothing named: the preset `quickstart`. scale: of a paper's preset; files and other presets have one only.
    """
    values = read_yaml(source or "quickstart", scale)
    return ExperimentConfig.from_mapping(apply_overrides(values, overrides))


def read_yaml(source: str | Path, scale: Literal["paper", "small"] = "paper") -> dict[str, object]:
    """The mapping in a YAML file, or in a preset of that name, without `reported` and `description`."""
    preset = generated().get(str(source))
    if scale not in ("paper", "small"):
        raise ConfigError("scale", "must be paper or small", scale, "paper")
    if preset is None and scale == "small":
        raise ConfigError("scale", f"must be left out: {source} is not one of a paper's presets", scale)
    values = _mapping_in(source) if preset is None else preset.mapping(scale)
    return {key: value for key, value in values.items() if key not in ("reported", "description")}


def _mapping_in(source: str | Path) -> dict[str, object]:
    """The mapping in a YAML file, or in a preset that is one."""
    path = Path(source)
    if path.suffix not in (".yaml", ".yml"):
        names = preset_names()
        if str(source) not in names:
            raise ConfigError(
                "preset", "must name a preset or a .yaml file", str(source), nearest_name(str(source), names)
            )
        path = PRESETS / f"{source}.yaml"
    values = values_in(read_text(path), "config", source=str(source))
    if not isinstance(values, dict):
        raise ConfigError("config", "must hold a mapping of groups", type(values).__name__)
    return values


def preset_names() -> list[str]:
    """Names of the presets that come with raysim: those written as YAML, then the papers'."""
    written = sorted(str(path.relative_to(PRESETS).with_suffix("")) for path in PRESETS.rglob("*.yaml"))
    return [*written, *generated()]
