"""The benchmark behind SPEED.md: `run.run` is its entry."""
