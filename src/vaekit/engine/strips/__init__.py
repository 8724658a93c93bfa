"""Encoding and decoding in strips: the result of one piece, inside a memory budget; docs/memory.md tells how.

Downwards: `budget` (how much), `running` (a plan carried out with the network's
modules), `attention`, `statistics`, `stores` (rows in memory or in a file).
`planning`, `simulation` (a plan gone through without a pixel), `telling`, `sweeping`
and `line` know nothing of torch. `calibration` measures the machine.
"""
