"""The families of models that Hugging Face directories hold: how each one's settings are read, and what its tensors are
called."""
