"""The operator: a pure core that plans, a thin shell that acts, and the `adts` command."""

__version__ = "0.1.0"
