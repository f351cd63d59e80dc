"""Model backends: the programs that hold a model and answer calls for it, each in a process of its own."""
