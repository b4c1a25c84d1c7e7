from provision.gateway.pace import Pace


def test_batches_double_while_the_doubling_pays_and_stay_when_it_does_not() -> None:
    pace = Pace(size=500, most=100_000)
    for seconds in (0.1, 0.12, 0.14):
        pace.took(pace.size, seconds, calm=True)
    assert pace.size == 4_000
    pace.took(4_000, 0.4, calm=True)
    pace.took(pace.size, 0.01, calm=True)
    assert pace.size == 4_000


def test_a_refused_batch_halves_all_that_follow_and_they_go_one_by_one() -> None:
    pace = Pace(size=500)
    pace.took(500, 0.1, calm=True)
    pace.too_large(1_000)
    assert (pace.size, pace.window) == (500, 1)
    pace.too_large(500)
    pace.took(250, 0.001, calm=True)
    assert (pace.size, pace.window) == (250, 1)


def test_the_first_request_goes_alone_and_after_trouble_they_become_more_one_by_one() -> None:
    pace = Pace(flights=4)
    windows = [pace.window]
    for calm in (True, True, False, True, True):
        pace.took(1, 0.1, calm=calm)
        windows.append(pace.window)
    assert windows == [1, 4, 4, 1, 2, 3]


def test_a_request_that_takes_long_is_not_made_longer() -> None:
    pace = Pace(size=500)
    pace.took(500, 3.0, calm=True)
    assert pace.size == 500


def test_a_request_that_shares_the_server_with_others_is_not_taken_for_a_slow_one() -> None:
    pace = Pace(size=500)
    pace.took(500, 0.1, calm=True)
    pace.took(1_000, 0.4, calm=True, beside=3)
    assert pace.size == 2_000


def test_the_last_rows_are_dealt_to_all_flights() -> None:
    pace = Pace(size=2_000, flights=4)
    assert [pace.next(left) for left in (100_000, 8_000, 6_000, 900)] == [2_000, 2_000, 1_500, 1_000]
