"""Version of the record format."""

from __future__ import annotations

SCHEMA = 1
"""Version of the record format; incremented by incompatible changes."""
