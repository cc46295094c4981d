"""The same as `promise-jax benchmark`; --help describes it."""

import sys

from promise_jax.cli.main import main

if __name__ == "__main__":
  sys.exit(main(["benchmark", *sys.argv[1:]]))
