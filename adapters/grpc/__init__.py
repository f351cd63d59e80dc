"""gRPC between the control plane and the model backends, in LocalAI's messages."""
