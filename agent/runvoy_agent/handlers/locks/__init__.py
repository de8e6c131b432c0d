"""Locks: their queues as routes and executions show them, and the one commit that ends a claim on them and grants them to who
is next. Joining a queue is a part of admission's commit; who is granted what is decided in `core.locks`."""
