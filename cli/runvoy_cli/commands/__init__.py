"""The commands, a file for each, named as what one types: it parses, calls the deployment, and renders. What several need is no
part of it, but of the packages beside."""
