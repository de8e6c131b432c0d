"""Following runs: waiting for them and reading their logs (`follow`), where their output goes and how it looks on a terminal,
the live rows meanwhile, Ctrl-C, and a reader of stdout who went away. Waiting for thousands is `bulk.waiting`."""
