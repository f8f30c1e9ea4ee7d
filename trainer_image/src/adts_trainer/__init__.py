"""The trainer: what runs inside every pod."""

__version__ = "0.1.0"
