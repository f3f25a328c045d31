"""How a worker's process begins and what it is tied to."""
