"""What is done with an experiment: the base model with its adapter, trained or counted."""
