from datetime import date

import pytest

from silverray.shard.schema.days import from_days, to_days


@pytest.mark.parametrize(
    ("day", "days"), [(date(1970, 1, 1), 0), (date(2001, 5, 31), 11_473), (date.min, -719_162), (date.max, 2_932_896)]
)
def test_days_are_counted_from_1970_and_back(day: date, days: int) -> None:
    assert (to_days(day), from_days(days)) == (days, day)


@pytest.mark.parametrize("days", [-719_163, 2_932_897, 2**31 - 1])
def test_a_day_of_no_year_that_python_has_is_an_overflow(days: int) -> None:
    with pytest.raises(OverflowError):
        from_days(days)
