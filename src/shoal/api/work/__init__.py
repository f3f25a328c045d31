"""How a loaded model is at work behind the objects of the Python interface."""
