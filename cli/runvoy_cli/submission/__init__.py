"""From a command line to a durable request: its options, the signed request and its upload, `--dry-run`, and a request as
people read it. Whole files are in `bulk`, playbooks in `playbooks`; what comes after is `following`."""
