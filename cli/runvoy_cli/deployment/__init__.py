"""The deployment as the client sees it: signed calls, uploads and reads (`client`) of one deployment by one key (`target`), how
one gets from the global options to it (`session`), the embedded stack that is found or started, and executions by a part of
their id. Which one is meant is said in `home.config`; what is done with it is in the packages above."""
