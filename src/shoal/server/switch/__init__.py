"""Several language models behind one address, each in a server of its own that is started when a call needs it."""
