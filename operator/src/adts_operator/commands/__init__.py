"""Subcommands of `adts`, a module each; loaded only when they are called."""
