"""The layers of a decoder as data: attention, experts, and features of single families."""
