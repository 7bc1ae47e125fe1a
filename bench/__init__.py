"""Opens model files and measures them: latency on a device, and parity of predictions per domain.

Importing this package has no side effects. `agent` and its imports run without torch, scipy and pydantic.
"""
