"""From a configuration to an experiment; the one folder that knows attacks and defenses by name."""
