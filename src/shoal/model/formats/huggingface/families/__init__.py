"""The families of models in Hugging Face directories: how each one's settings are read, and the names of its
tensors."""
