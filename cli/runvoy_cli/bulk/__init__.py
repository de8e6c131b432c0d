"""`submit --bulk`: the file and its lines, the requests that they make, sending them as signed batches, and waiting for many
executions by calls that tell of 500. One request is `submission`."""
