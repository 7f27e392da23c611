"""The gate tests itself: faults are injected into the running program, and each must turn the right case red."""
