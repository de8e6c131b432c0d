"""The viewer: static files, and what whoever serves them must know of browsers (`pages`, `origins`)."""
