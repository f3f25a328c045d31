"""What layers of a decoder are, as data: attention, experts, and what only some models have."""
