"""How a worker's process begins, and how it depends on its parent."""
