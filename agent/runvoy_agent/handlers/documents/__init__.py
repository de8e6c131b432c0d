"""What handlers keep and hand on, for all of them: records with their keys and indexes (`store`), commits that are tried again
(`commits`), lists over them (`listings`, `all_executions`), what stands in the outbox, the messages of queues, what a round of the
reconciler tells of. They decide nothing and know no other handler. What a document holds is said in `core.model`, what carries it in `ports`."""
