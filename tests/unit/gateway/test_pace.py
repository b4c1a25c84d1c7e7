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


def test_more_requests_are_in_flight_while_none_must_be_sent_again() -> None:
    pace = Pace(flights=4)
    windows = []
    for calm in (True, True, False, True):
        pace.took(1, 0.1, calm=calm)
        windows.append(pace.window)
    assert windows == [2, 3, 1, 2]


def test_a_request_that_takes_long_is_not_made_longer() -> None:
    pace = Pace(size=500)
    pace.took(500, 3.0, calm=True)
    assert pace.size == 500
