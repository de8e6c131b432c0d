"""What people write, on the command line and in files, and what is told of what is wrong with it: the global options, values,
YAML with its places, mistakes in a command line. It knows no other part of the client. A command's own options stand in
`commands`, those that make a run request in `submission.request`."""
