"""The experiment configuration: its schema, YAML files and presets, dotted overrides, refusals."""

from raysim._moved import moved_names

__getattr__ = moved_names("raysim.config")
