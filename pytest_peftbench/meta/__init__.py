"""The meta device as a stand-in for an accelerator, and what is known of real base models."""
