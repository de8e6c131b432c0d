"""The command line. It imports the protocol, never the agent: the embedded stack is started as a process. `entry`
is where it begins, `app` puts it together; its packages are layers (docs/development.md has the map)."""

# Also in pyproject.toml. A constant, for reading the package's metadata takes longer than a submit.
__version__ = "0.1.0"
