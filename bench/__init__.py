"""Open files and measure them: latency on a device, and parity of predictions per domain.

Importing this package does nothing. What `agent` imports runs without torch, scipy and pydantic.
"""
