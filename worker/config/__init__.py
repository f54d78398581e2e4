"""Configuration: config.toml, environment, defaults, and their validation."""
