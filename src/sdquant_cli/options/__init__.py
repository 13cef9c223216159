"""Options of the stages: requests, presets and the configuration file."""
