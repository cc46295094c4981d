"""The same as `promise-jax compare`; --help describes it."""

import sys

from promise_jax.cli.main import main

if __name__ == "__main__":
  sys.exit(main(["compare", *sys.argv[1:]]))
