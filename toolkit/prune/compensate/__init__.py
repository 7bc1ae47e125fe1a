"""Closed-form compensation after removal: one file per method, found by its name. (None yet.)"""

KIND = "compensation"
