"""Lengths of time: as people write them, and what lies that long before."""

from __future__ import annotations

from calendar import monthrange
from datetime import UTC, datetime
from math import inf, nan
from zoneinfo import ZoneInfo

import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from milepost import Span
from milepost.journal.errors import InvalidArgument
from milepost.journal.retention.duration import UNITS, as_span
from tests.retention import restic

BERLIN = ZoneInfo("Europe/Berlin")
MOMENTS = st.integers(-2_000_000_000, 7_000_000_000).map(
    lambda seconds: datetime.fromtimestamp(seconds, UTC)
)
SPANS = st.builds(
    Span,
    st.integers(0, 1200),
    st.integers(0, 40_000),
    st.floats(0, 1e9).map(lambda seconds: round(seconds, 6)),
)


@pytest.mark.parametrize(
    ("text", "span"),
    [
        ("250ms", Span(seconds=0.25)),
        ("0s", Span()),
        ("90s", Span(seconds=90)),
        ("1.5h", Span(seconds=5400)),
        ("90min", Span(seconds=5400)),
        ("7d", Span(days=7)),
        ("6w", Span(days=42)),
        ("3mo", Span(months=3)),
        ("2y", Span(months=24)),
        ("1000y", Span(months=12_000)),
        (" 1 y 6mo\t2d 12h ", Span(18, 2, 43_200)),
        ("1d1d", Span(days=2)),
        ("0.1s0.2s", Span(seconds=0.3)),
    ],
)
def test_a_span_is_read_as_people_write_it(text: str, span: Span) -> None:
    assert Span.parse(text) == span
    assert as_span(text) == as_span(span) == span


@given(SPANS)
@example(Span(seconds=0.000001))
@example(Span(seconds=1.1))
@example(Span(seconds=100.0))
def test_a_span_is_told_as_it_is_read(span: Span) -> None:
    assert Span.parse(str(span)) == span


@given(st.text("0123456789.", min_size=1, max_size=8), st.sampled_from(UNITS))
def test_what_can_be_read_is_told_so_that_it_is_read_again(
    number: str, unit: str
) -> None:
    try:
        span = Span.parse(number + unit)
    except InvalidArgument:
        return
    assert Span.parse(str(span)) == span


def test_a_bare_m_is_refused_with_the_reason() -> None:
    for text in ("5m", "1h5m", "5 m"):
        with pytest.raises(InvalidArgument, match="minutes or months, got") as caught:
            Span.parse(text)
        assert text in str(caught.value)


@pytest.mark.parametrize(
    "text",
    ["", " ", "-1d", "+1d", "1", "d", "1x", "1D", "1 1d", "1d-1h", "1e3s", "inf s",
     ".5h", "\N{ARABIC-INDIC DIGIT ONE}d", "\N{FULLWIDTH DIGIT ONE}d", "1µs", "1d\0",
     "1001y", "12001mo", "365251d", "99999999999999s", "999999999999y"],
)  # fmt: skip
def test_what_is_no_duration_is_refused_with_examples(text: str) -> None:
    with pytest.raises(InvalidArgument, match=r"^expected .*, got "):
        Span.parse(text)


@pytest.mark.parametrize("text", ["1.5d", "0.5w", "1.0mo", "2.5y"])
def test_parts_of_days_and_months_are_refused(text: str) -> None:
    with pytest.raises(InvalidArgument, match="is a calendar unit: expected a whole"):
        Span.parse(text)


@pytest.mark.parametrize(
    "value",
    [None, 5, 1.5, b"1d", Span(months=-1), Span(days=-1), Span(seconds=-0.1),
     Span(seconds=nan), Span(seconds=inf), Span(months=12_001)],
)  # fmt: skip
def test_what_is_no_span_is_refused(value: object) -> None:
    with pytest.raises(InvalidArgument, match="expected a duration"):
        as_span(value)  # type: ignore[arg-type]


@given(MOMENTS, st.integers(0, 99), st.integers(0, 30), st.integers(0, 99))
@example(datetime(2026, 3, 31, tzinfo=UTC), 1, 0, 0)
@example(datetime(2024, 3, 31, tzinfo=UTC), 1, 0, 0)
@example(datetime(2024, 2, 29, tzinfo=UTC), 12, 0, 0)
@example(datetime(2026, 12, 31, tzinfo=UTC), 1, 30, 1)
def test_going_back_is_gos_calendar_and_rolls_over(
    moment: datetime, months: int, days: int, hours: int
) -> None:
    theirs = restic.Duration(0, months, days, hours).before(moment)
    assert Span(months, days, hours * 3600.0).before(moment) == theirs


def test_a_month_before_the_31st_of_march_is_in_march() -> None:
    for year, day in ((2026, 3), (2024, 2)):
        back = Span.parse("1mo").before(datetime(year, 3, 31, 12, tzinfo=UTC))
        assert back == datetime(year, 3, day, 12, tzinfo=UTC)


@given(MOMENTS, st.integers(0, 40), SPANS)
def test_more_is_never_less_far_back(moment: datetime, days: int, span: Span) -> None:
    more = span._replace(days=span.days + days)
    assert more.before(moment) <= span.before(moment) <= moment


def test_days_are_of_the_calendar_and_hours_are_exact() -> None:
    noon = datetime(2026, 3, 29, 12, tzinfo=BERLIN)  # at 2 o'clock it was 3 o'clock
    assert Span(days=1).before(noon, BERLIN) == datetime(2026, 3, 28, 11, tzinfo=UTC)
    day_before = datetime(2026, 3, 28, 10, tzinfo=UTC)
    assert Span(seconds=86_400).before(noon, BERLIN) == day_before
    assert Span(days=1).before(noon) == day_before


def test_going_back_into_a_skipped_or_repeated_hour_finds_a_moment_in_it() -> None:
    half_past = datetime(2026, 3, 30, 2, 30, tzinfo=BERLIN)
    skipped = datetime(2026, 3, 29, 1, 30, tzinfo=UTC)
    assert Span(days=1).before(half_past, BERLIN) == skipped
    half_past = datetime(2026, 10, 26, 2, 30, tzinfo=BERLIN)
    repeated = datetime(2026, 10, 25, 0, 30, tzinfo=UTC)
    assert Span(days=1).before(half_past, BERLIN) == repeated


@pytest.mark.parametrize("text", ["1y", "1mo", "32d", "5w", "1000h", "1000y", "1y1ms"])
def test_before_the_first_year_lies_the_first_moment(text: str) -> None:
    first = datetime.min.replace(tzinfo=UTC)
    early = datetime(1, 1, monthrange(1, 1)[1], tzinfo=UTC)
    assert Span.parse(text).before(early, ZoneInfo("UTC")) == first


def test_in_the_first_year_there_is_still_a_way_back() -> None:
    early = datetime(1, 3, 31, tzinfo=UTC)
    assert Span(months=2).before(early) == datetime(1, 1, 31, tzinfo=UTC)
    assert Span(days=30).before(early) == datetime(1, 3, 1, tzinfo=UTC)
