"""From an object of the inbox to a verdict: verifying and judging a request, taking a batch apart, and the same for a request
that is only tried out. The way in that commits and answers is `inbox`, beside this package; uploads that no delivery came for
are looked for by `reconciler`."""
