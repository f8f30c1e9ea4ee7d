"""Subcommands that the trainer adds to `adts` by entry points."""
