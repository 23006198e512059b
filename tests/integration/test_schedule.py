"""Business dates under a schedule that daylight saving time disturbs (T39)."""

from __future__ import annotations

from datetime import UTC, datetime
from itertools import pairwise

import pendulum
import pytest
from airflow.models.dagrun import DagRun
from airflow.sdk import CronDataIntervalTimetable, CronTriggerTimetable
from airflow.serialization.decoders import decode_timetable
from airflow.serialization.encoders import encode_timetable
from airflow.timetables.base import TimeRestriction

from batch_provider.operators._run_info import business_date

pytestmark = pytest.mark.integration

PACIFIC = pendulum.timezone("US/Pacific")


class Dag:
    """What business_date() asks of a DAG."""

    timezone = PACIFIC


def scheduled(timetable, first, last):
    """The runs that Airflow itself schedules between two local days, as (run_after in UTC, business date)."""
    airflow = decode_timetable(encode_timetable(timetable))
    earliest = pendulum.datetime(*first, tz=PACIFIC).in_timezone("UTC")
    latest = pendulum.datetime(*last, tz=PACIFIC).in_timezone("UTC")
    restriction = TimeRestriction(earliest, latest, catchup=True)
    runs, previous = [], None
    while (
        info := airflow.next_dagrun_info(last_automated_data_interval=previous, restriction=restriction)
    ) is not None:
        previous = info.data_interval
        run = DagRun(dag_id="d", run_id=f"scheduled__{info.run_after.isoformat()}", logical_date=info.logical_date)
        run.data_interval_start, run.data_interval_end = info.data_interval
        run.run_after = info.run_after
        runs.append((info.run_after.astimezone(UTC), business_date({"dag_run": run, "dag": Dag, "params": {}})))
    return runs


def test_t39_a_missing_hour_makes_no_run_missing_and_no_date_wrong():
    """02:33 did not exist in US/Pacific on 13 March 2022; Airflow runs that day at 03:33 local time."""
    runs = scheduled(CronTriggerTimetable("33 2 * * *", timezone=PACIFIC), (2022, 3, 12), (2022, 3, 15))

    assert [date for _, date in runs] == ["2022-03-12", "2022-03-13", "2022-03-14"]
    assert len({instant for instant, _ in runs}) == 3
    assert [instant for instant, _ in runs] == [
        datetime(2022, 3, 12, 10, 33, tzinfo=UTC),
        datetime(2022, 3, 13, 10, 33, tzinfo=UTC),
        datetime(2022, 3, 14, 9, 33, tzinfo=UTC),
    ]


def test_t39_an_hour_that_comes_twice_makes_no_run_twice():
    """01:33 comes twice in US/Pacific on 7 November 2021."""
    runs = scheduled(CronTriggerTimetable("33 1 * * *", timezone=PACIFIC), (2021, 11, 6), (2021, 11, 9))

    assert [date for _, date in runs] == ["2021-11-06", "2021-11-07", "2021-11-08"]


def test_t39_a_data_interval_is_named_by_its_local_start():
    runs = scheduled(CronDataIntervalTimetable("33 2 * * *", timezone=PACIFIC), (2022, 3, 11), (2022, 3, 15))

    dates = [date for _, date in runs]
    assert len(dates) == len(set(dates))
    assert {"2022-03-12", "2022-03-13"} <= set(dates)


@pytest.mark.parametrize(
    ("zone", "month", "change", "hours"),
    [
        ("Europe/Berlin", 3, 29, 23),
        ("Europe/Berlin", 10, 25, 25),
        ("America/New_York", 3, 8, 23),
        ("America/New_York", 11, 1, 25),
    ],
)
def test_a_month_of_local_days_has_no_gap_no_overlap_and_every_date_once(zone, month, change, hours):
    """What a backfill by data interval goes through, in a month in which clocks change (2026)."""
    local = pendulum.timezone(zone)
    timetable = decode_timetable(encode_timetable(CronDataIntervalTimetable("0 0 * * *", timezone=local)))
    first = pendulum.datetime(2026, month, 1, tz=local)
    last = first.add(months=1).subtract(days=1)
    restriction = TimeRestriction(first.in_timezone("UTC"), last.in_timezone("UTC"), catchup=True)
    intervals, previous = [], None
    while (
        info := timetable.next_dagrun_info(last_automated_data_interval=previous, restriction=restriction)
    ) is not None:
        previous = info.data_interval
        intervals.append(info.data_interval)

    dates = [_business_date(interval, local) for interval in intervals]
    assert dates == [first.add(days=day).to_date_string() for day in range(last.day)]
    assert all(before.end == after.start for before, after in pairwise(intervals))
    lengths = {
        date: (interval.end - interval.start).total_seconds() / 3600
        for date, interval in zip(dates, intervals, strict=True)
    }
    assert {date for date, length in lengths.items() if length != 24} == {f"2026-{month:02}-{change:02}"}
    assert lengths[f"2026-{month:02}-{change:02}"] == hours


def _business_date(interval, zone):
    run = DagRun(dag_id="d", run_id="scheduled", logical_date=interval.start)
    run.data_interval_start, run.data_interval_end, run.run_after = interval.start, interval.end, interval.end
    return business_date({"dag_run": run, "dag": type("Dag", (), {"timezone": zone}), "params": {}})
