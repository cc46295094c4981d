"""Three methods in PyTorch, to compare with: the same layers, sizes and losses.

Each is written as a user of PyTorch would write it, with fused attention, and not as its JAX
original is. `loading.load_params` copies parameters over, and `bench.twins` demands equal losses,
logits and gradients before it measures anything.
"""
