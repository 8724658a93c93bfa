"""The same networks, run faster: the plain one stays as it is, and what is here is proved equal to it.

Downwards: `whole` (a line of steps over whole pictures), `gpu` (the same on a GPU),
`openvino` (the same as a graph), `graphs` (repeated sizes as CUDA graphs), `norms`
and `kernels` (GroupNorm in two passes, in PyTorch and in Triton); loops of our own
for CPUs: `winograd` and `tiles` (3×3 convolutions with a quarter of the products,
and their machine code), `attention` and `scores` (the same of attention),
`normalised` and `channels` (the same of norms and activation), what these are
written with (`loops`), what runs them (`threads`) and what says where they pay
(`processor`); `folding` (enlargement and convolution in one), `fused` (a convolution with what
follows it).
"""
