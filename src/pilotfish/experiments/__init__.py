"""The only place that names a task and an algorithm together."""
