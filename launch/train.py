"""The same as `promise-jax train`; --help describes it."""

import sys

from promise_jax.cli.main import main

if __name__ == "__main__":
  sys.exit(main(["train", *sys.argv[1:]]))
