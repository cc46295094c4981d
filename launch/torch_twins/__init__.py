"""Three methods in PyTorch, to compare with: the same layers, sizes and losses.

Each computes as a user of PyTorch would write it, with fused attention, and not as its JAX original
does. It reads a copy of the original's parameters, and `bench.twins` demands equal losses, logits
and gradients before it measures anything.
"""
