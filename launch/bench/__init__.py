"""The parts of `launch/benchmark.py`: what is measured, how, and how it is told."""
