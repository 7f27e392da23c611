"""Override `base_model`, `task_data` or `gpu_memory` here to bring your own; see `pytest --fixtures`."""
