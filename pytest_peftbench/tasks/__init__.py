"""The tasks, a folder each: what is trained, on which data, and how it is evaluated."""
