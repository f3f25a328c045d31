"""The rows of `peers.py`: who is compared with whom, under which load, and what is asked for."""
