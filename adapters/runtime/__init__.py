"""The running system: the one writer, standbys, effects, liveness, and the bootstrap that wires them."""
