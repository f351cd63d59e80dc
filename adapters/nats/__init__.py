"""NATS: the broker, orders to workers, commands to the writer, events to whoever listens."""
