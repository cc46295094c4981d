"""What `load` makes of names, paths and options."""

import numpy as np
import pytest
from npz_files import plain

from promise_jax import data
from promise_jax.data.builtin import builders


def test_errors_name_what_is_known(data_dir, save_npz, tmp_path):
  (tmp_path / "folder.npz").mkdir()
  own = save_npz(plain())
  other_name = own.with_suffix(".arrays")
  other_name.touch()
  path_words = r"must be a file \*.npz, .* \*.pkl, or a prepared"
  for name, options, words in (
    ("mfaet", {}, "'mfaet' is no data set: .*; known in .* are mfeat, emoji, watch"),
    (str(tmp_path / "none"), {}, path_words),
    (tmp_path, {}, path_words),
    (tmp_path / "folder.npz", {}, path_words),
    (other_name, {}, r"own.arrays: files of this kind are not read, save it as one of \*.npz, "),
    ("mfeat", {"label": "y"}, r"'mfeat' has no option 'label' \(a table \*.csv, .* has\), its"),
    (builders.EMBEDDED / "mfeat.npz", {}, "mfeat.npz: there is no array x_<modality>"),
    ("watch", {"fold": 2}, "fold is '2', known are 0, 1"),
    ("mfeat", {"fold": 1}, "'mfeat' has no option 'fold', its options are vocabulary, scale, "),
    ("mfeat", {"kinds": {"fou": "tokens"}}, "kinds has 'fou', .* of integers .T.: none"),
    ("mfeat", {"split_seed": 1}, "has no option 'split_seed'"),
    ("mfeat", {"tags": True}, "has no option 'tags'"),
    (own, {"tags": True}, "own.npz' has no option 'tags', its options are vocabulary, scale, ki"),
    (own, {"foo": 1}, "has no option 'foo'"),
    (own, {"stream": True, "encoders": {"v": "a:b"}}, "stream and encoders are given"),
    ("synthetic", {"tags": True}, "no option 'tags', its options are seed, rows, modalities"),
    ("synthetic", {"encoders": {"m0": "a:b"}}, "'synthetic' has no option 'encoders'"),
    ("synthetic", {"modalities": "m0"}, "modalities is 'm0', here it is how many"),
  ):
    with pytest.raises(ValueError, match=words) as caught:
      data.load(name, data_dir=data_dir, **options)
    assert "\n" not in str(caught.value)
  with pytest.raises(ValueError, match="'own' is 'dev', known are train, valid"):
    data.load(own).split("dev")


def test_modalities_are_kept_in_the_order_of_the_data(save_npz):
  present = np.arange(12) % 4 != 2
  arrays = plain(x_w=np.ones((12, 3)), present_v=present, length_s=4 * present)
  own = save_npz(arrays)
  whole = data.load(own)
  for names in ("s+v", ("v", "s"), ["s", "v"], " v + s"):
    found = data.load(own, modalities=names)
    assert found.spec.modalities == whole.spec.modalities[:2]
    a, b = found.split("test"), whole.split("test")
    assert a.inputs.keys() == {"v", "s"}
    np.testing.assert_array_equal(a.recorded, b.recorded[:, :2])
    np.testing.assert_array_equal(a.inputs["s"], b.inputs["s"])
    assert a.id.tolist() == b.id.tolist()
    assert not a.recorded.any(axis=1).all()  # rows with nothing left stay
  for names in ((), ""):
    assert data.load(own, modalities=names).spec.names == ("v", "s", "w")
  empty = save_npz(plain(present_s=np.zeros(12, bool)))
  assert data.load(empty, modalities="v").spec.names == ("v",)  # a dropped one is not cleaned


@pytest.mark.parametrize(
  ("names", "sentence"),
  [
    ("v+sound", r"is 'v\+sound', .* data set 'own', each once and joined by \+: v, s."),
    ("v,s", r"is 'v,s', expected are names"),
    ("v+s+v", r"is 'v\+s\+v', .* each once"),
    ("v+", r"is 'v\+', expected"),
    (2, "modalities is 2, expected are names, as 'image.text'"),
  ],
)
def test_wrong_names_of_modalities_are_refused(save_npz, names, sentence):
  with pytest.raises(ValueError, match=sentence):
    data.load(save_npz(plain()), modalities=names)


def test_the_modalities_of_built_in_sets_can_be_chosen(emoji, data_dir):
  found = data.load("emoji", modalities="props+image", data_dir=data_dir)
  assert found.spec.names == ("image", "props")
  assert data.load("synthetic", modalities=2, rows=(9, 9, 9)).spec.names == ("m0", "m1")
