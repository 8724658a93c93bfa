"""How a network is run: where, in which dtype, and what happens when that was too narrow."""
