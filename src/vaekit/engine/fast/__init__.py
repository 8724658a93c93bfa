"""The same networks, run faster: the plain one stays as it is, and what is here is proved equal to it.

Downwards: `whole` (a line of steps over whole pictures), `folding` (enlargement
and convolution in one), `fused` (a convolution with what follows it).
"""
