"""At its top one file per way in, and the packages that those are made of, in layers (docs/development.md has the map). A handler
loads what the core needs, lets it decide, commits the decision, and only then tells anyone. Each may be run again at any point: a
delivery is acknowledged after all of its effects."""
