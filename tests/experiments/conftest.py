"""Runs in these tests are short."""

import pytest

import shortcuts


@pytest.fixture(scope="module", autouse=True)
def short_runs(one_device):
  with shortcuts.short_runs(one_device):
    yield
