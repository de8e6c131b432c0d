"""The parts of a round of the reconciler, which `reconcile`, beside this package, puts together: executions that are not over
(`runs`), those that were to be stopped with all of a revoked user's (`stop_alls`), uploads that nobody answered (`lost_uploads`,
and `inbox_sweeps`, which lists them), batches that do not get on, and a launcher that holds no round up. What a round mends by the
way of others stands with them: `locks.releases`, `quotas.places`, `quotas.recounts`, `audit.seals`."""
