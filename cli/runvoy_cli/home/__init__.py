"""What runvoy keeps on this machine, in RUNVOY_HOME: the configuration, which with the environment says which deployment is
meant, and what is remembered between two commands. Keys on their way to a deployment are in `members.new_keys`, the embedded
stack's own state is the agent's."""
