"""Reports: each reads results and verdicts only."""
