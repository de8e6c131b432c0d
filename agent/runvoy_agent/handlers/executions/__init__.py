"""What is asked of an execution that was admitted, or of many: their states and logs (`reads`, `log_grants`), what was
signed, their story, their cost, their end by a kill; and what lets a runner upload (`run_grants`). Launching and settling
them are ways in, `starts` and `ends`, beside this package; their locks are in `locks`."""
