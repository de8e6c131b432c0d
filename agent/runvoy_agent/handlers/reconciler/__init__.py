"""The parts of a round of the reconciler, which `reconcile`, beside this package, puts together: executions that are not over
(`runs`), batches that do not get on, uploads that nobody answered, what was to be stopped with all else of a user's, and a
launcher that holds no round up. What a round mends by the way of others stands with them: `locks.releases`, `quotas.recounts`,
`quotas.places`, `audit.seals`."""
