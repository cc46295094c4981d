"""Puts the configs into wheels, as promise_jax/configs; pyproject.toml has all the rest."""

import shutil
from pathlib import Path

from setuptools import setup
from setuptools.command.build_py import build_py


class BuildWithConfigs(build_py):
  """Copies configs/ into the built package. An editable install reads the checkout's."""

  def run(self):
    super().run()
    if not self.editable_mode:
      target = Path(self.build_lib, "promise_jax", "configs")
      ignore = shutil.ignore_patterns("__pycache__")
      shutil.copytree("configs", target, dirs_exist_ok=True, ignore=ignore)


setup(cmdclass={"build_py": BuildWithConfigs})
