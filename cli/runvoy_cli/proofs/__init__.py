"""Checking on this machine what the deployment says, without believing it: the audit against its hashes and signatures, and
an execution's signed request against what was recorded. How it is told is the command's, `commands.audit`."""
