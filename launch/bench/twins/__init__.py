"""PyTorch twins of three methods: the same layers, sizes and losses, for comparison.

Each is written as a user of PyTorch would write it, not as its JAX original is: fused
attention, fused optimisers, loops over modalities only. `layers.load` copies parameters
over, and `bench.versus` asks for equal losses, logits and gradients before any timing.
"""
