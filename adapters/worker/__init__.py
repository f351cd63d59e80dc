"""The worker: the process on a node that runs one backend process per replica."""
