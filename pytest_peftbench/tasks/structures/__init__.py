"""Structures: tiny base models of each kind that PEFT adapts, made in code, and the adapters that are put on them."""
