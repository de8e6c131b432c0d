"""What runs are given by name: images, secrets and published playbooks; their routes, and loading them for whoever admits or
starts a run. Whether a run may use them is judged in `core`; the locks that it takes and the quotas that it counts in have
packages of their own."""
