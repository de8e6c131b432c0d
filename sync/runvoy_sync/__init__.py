"""The folder daemon: requests dropped into a folder are submitted, and what becomes of executions lies beside them."""
