"""What a case measured and is expected to measure, and the files that hold it. Imports no torch."""
