"""Playbooks: where they are found, the check of their text (`reader` with `nodes`, `placeholders`, `rules` and `shell`),
their model, what is made of one (a run request, a published playbook, a page for people), and their JSON Schema. Values are
compared with patterns by `runvoy_protocol.patterns`; YAML itself is read in `input.yaml_nodes`."""
