"""Text on its way to people: stderr and its live rows (`screen`), tables and errors (`render`), what states and reasons are
called (`words`), what is taken out of foreign text (`sanitize`), what a CI job is told (`github`), and a secret that is
typed. Nothing here asks a deployment. A run's own output is in `following`."""
