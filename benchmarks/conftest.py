"""Override `base_model`, `task_data`, `gpu_memory` or `peft_baseline` here to bring your own; see `pytest --fixtures`."""
