"""RFC 3339 times of the status and unix seconds of the core. No clock here."""

from __future__ import annotations

from datetime import UTC, datetime


def to_rfc3339(seconds: float) -> str:
    """`2026-11-22T16:25:06.123Z` for unix seconds, in milliseconds."""
    text = datetime.fromtimestamp(round(seconds, 3), tz=UTC).isoformat(timespec="milliseconds")
    return text.replace("+00:00", "Z")


def to_seconds(text: str, default: float) -> float:
    """Unix seconds of an RFC 3339 time; `default` for an empty one."""
    return datetime.fromisoformat(text).timestamp() if text else default
