"""Instruments: counters, times, clocks, memory, weights, environment."""
