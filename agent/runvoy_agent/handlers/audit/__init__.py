"""The audit: notes of calls that changed nothing (`notes`), the routes that show it and let a client prove it, and the seals
that the reconciler puts on it. The record of a change is no part of it: it is made by `documents.store.audit`, in the very
commit that changes something. An execution's story, which is told of the audit among others, is `executions.traces`."""
