"""Users and their keys on this machine: claim tokens, new keys until the deployment knows them, which keys a key made, and
what members and their limits are called. Who may do what is the deployment's to decide."""
