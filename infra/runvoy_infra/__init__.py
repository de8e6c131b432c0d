"""The AWS deployment: the CDK app (`stack`), what `just bundle` makes of it (`bundle`), and `runvoy infra` (`deploy`)."""
