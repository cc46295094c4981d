"""The same as `promise-jax evaluate`; --help describes it."""

import sys

from promise_jax.cli.main import main

if __name__ == "__main__":
  sys.exit(main(["evaluate", *sys.argv[1:]]))
