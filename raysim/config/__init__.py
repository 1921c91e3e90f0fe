"""The experiment configuration: its schema, YAML files and presets, dotted overrides, refusals."""
