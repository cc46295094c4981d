"""A hostile pickle gets a sentence and runs nothing."""

import copyreg
import os
import pickle

import numpy as np
import pytest

from promise_jax.data.readers import safe_pickle


def read(tmp_path, content):
  path = tmp_path / "a.pkl"
  path.write_bytes(content)
  return safe_pickle.load(path)


class Call:
  """Pickles as a call."""

  def __init__(self, function, *arguments):
    self.call = function, arguments

  def __reduce__(self):
    return self.call


def text(value):
  return pickle.SHORT_BINUNICODE + bytes([len(value)]) + value.encode()


def named(module, name):
  return text(module) + text(name) + pickle.STACK_GLOBAL


def program(*parts):
  return pickle.PROTO + b"\x04" + b"".join(parts) + pickle.STOP


def called(module, name, argument):
  return program(named(module, name), text(argument), pickle.TUPLE1, pickle.REDUCE)


@pytest.mark.parametrize("protocol", range(6))
@pytest.mark.parametrize("within", [False, True])
def test_a_system_call_is_not_made(tmp_path, protocol, within):
  marker = tmp_path / "marker"
  call = Call(os.mkdir, str(marker))
  content = pickle.dumps({"x": np.array([call, 1], object)} if within else call, protocol)
  with pytest.raises(ValueError, match=r"asks for '(posix|nt|os)\.mkdir', which no"):
    read(tmp_path, content)
  assert not marker.exists()
  pickle.loads(content)  # the same file elsewhere
  assert marker.exists()


@pytest.mark.parametrize(
  ("module", "name"),
  [
    ("os", "system"),
    ("builtins", "eval"),
    ("__builtin__", "eval"),
    ("functools", "partial"),
    ("numpy", "load"),
    ("numpy", "ndarray.__class__"),
    ("numpy.core.multiarray", "_reconstruct.__globals__"),
    ("numpy.core", "multiarray._reconstruct"),
    ("numpy.testing._private.utils", "runstring"),
    ("_codecs", "encode.__self__"),
    ("copyreg", "_reconstructor"),
    ("promise_jax.data.readers.safe_pickle", "os.system"),
  ],
)
def test_other_names_are_refused_by_name(tmp_path, module, name):
  by_global = program(b"c", f"{module}\n{name}\n".encode())
  for content in (called(module, name, "1"), by_global):
    with pytest.raises(ValueError, match=f"asks for '{module}.{name}', which no"):
      read(tmp_path, content)


DTYPE = named("numpy", "dtype") + text("f4") + pickle.TUPLE1 + pickle.REDUCE
OBJECTS = named("numpy", "dtype") + text("O8") + pickle.TUPLE1 + pickle.REDUCE
ARRAY = named("numpy.core.multiarray", "_reconstruct") + named("numpy", "ndarray")
ARRAY += pickle.EMPTY_TUPLE + text("b") + pickle.TUPLE3 + pickle.REDUCE
ONE = pickle.BININT1 + b"\x01"
ONES = ONE + pickle.TUPLE1
FOUR = pickle.SHORT_BINBYTES + b"\x04" + bytes(4)
EIGHT = pickle.SHORT_BINBYTES + b"\x08" + bytes(8)
ATTRIBUTE = pickle.EMPTY_DICT + text("state") + ONE + pickle.SETITEM
DEFAULTS = pickle.EMPTY_DICT + text("__defaults__") + ONES + pickle.SETITEM


def state(*parts):
  return pickle.MARK + b"".join(parts) + pickle.TUPLE + pickle.BUILD


FULL = ARRAY + state(ONE, ONES, DTYPE, b"\x89", FOUR)
# fmt: off
HOSTILE = [
  # operations that make objects, or fetch them from elsewhere
  (program(text("a"), pickle.BINPERSID), "damaged one: .*persistent"),
  (program(pickle.PERSID, b"a\n"), "damaged one: .*persistent"),
  (program(pickle.EXT1, b"\x01"), r"an operation \(EXT1\)"),
  (program(pickle.MARK, pickle.INST, b"os\nsystem\n"), "asks for 'os.system'"),
  (program(pickle.MARK, named("numpy", "dtype"), pickle.OBJ), "a damaged one"),
  (program(named("numpy", "dtype"), b")", pickle.NEWOBJ), "a damaged one"),
  (program(pickle.NEXT_BUFFER), "a damaged one"),
  (program(b"]", pickle.LONG_BINPUT, b"\xff" * 4), r"an operation \(LONG_BINPUT\)"),  # 64 GB
  # attributes
  (program(DTYPE, ATTRIBUTE, pickle.BUILD), "a damaged one"),
  (program(ARRAY, ATTRIBUTE, pickle.BUILD), "a damaged one"),
  (program(named("numpy", "dtype"), b"N", DEFAULTS, b"\x86", pickle.BUILD), "sets attributes"),
  (program(ARRAY, state(ONE, ONE)), "a damaged one"),
  # a dtype with flags of its own would turn bytes into pointers
  (program(OBJECTS, state(ONE, text("|"), ONE, b"N", b"N", b"N")), "fields or of an unknown"),
  (program(ARRAY, state(ONE, ONES, OBJECTS, b"\x89", EIGHT)), "neither text nor numbers"),
  (program(FULL, state(ONE, ONES, DTYPE, b"\x89", FOUR)), "set twice"),
  # calls of what is admitted, with something else in mind
  (called("numpy", "ndarray", "a"), "a damaged one"),
  (called("numpy.core.multiarray", "_reconstruct", "a"), "a damaged one"),
  (called("numpy", "dtype", "V8"), "of dtype 'V8', admitted are"),
  (program(named("_codecs", "encode"), text("a"), text("rot13"), b"\x86R"), "bytes of something"),
  (program(named("builtins", "bytes"), b"J\xff\xff\xff\x7f\x85R"), "bytes of something"),
  # arrays that are not what they say
  (program(ARRAY, state(ONE, ONES, ONE, b"\x89", FOUR)), "a damaged one"),
  (program(ARRAY, state(ONE, ONES, DTYPE, b"\x89", b"N")), "a damaged one"),
  (program(ARRAY, state(ONE, b"K\x02\x85", DTYPE, b"\x89", FOUR)), "a damaged one"),
  (program(ARRAY, state(ONE, b"J\xff\xff\xff\x7f\x85", DTYPE, b"\x89", FOUR)), "a damaged one"),
]
# fmt: on


@pytest.mark.parametrize(("content", "match"), HOSTILE)
def test_other_operations_and_states_are_refused(tmp_path, content, match):
  copyreg.add_extension("os", "system", 1)
  copyreg._extension_cache[1] = os.system  # as after a pickle that was trusted
  try:
    with pytest.raises(ValueError, match=match) as caught:
      read(tmp_path, content)
  finally:
    copyreg.remove_extension("os", "system", 1)
  assert "\n" not in str(caught.value) and str(caught.value).endswith(".")
  assert safe_pickle.PickledDtype.__init__.__defaults__ == (False, False)
  np.testing.assert_array_equal(read(tmp_path, program(FULL)), [0.0])


def test_deep_and_recursive_containers_do_no_harm(tmp_path):
  own = []
  own.append(own)
  found = read(tmp_path, pickle.dumps(own))
  assert found[0] is found
  nested = [np.ones(2)]
  for _ in range(60):  # 2^60 lists, were each followed on its own
    nested = [nested, nested]
  found = read(tmp_path, pickle.dumps(nested))
  assert found[0] is found[1]
  assert len(read(tmp_path, program(b"]" * 100_000, b"a" * 99_999))) == 1
