import httpx
import pytest
from postgrest import APIError
from tenacity import RetryError

from provision.errors import ApiError, ProvisionError, Refused, Unreachable
from provision.gateway import BatchTooLarge
from provision.gateway.retry import Transient, policy
from provision.gateway.supabase import classify, unreachable


def said(sqlstate: str, status: int, *, retry_after: str | None = None) -> Exception:
    headers = {} if retry_after is None else {"Retry-After": retry_after}
    error = APIError({"code": sqlstate, "message": "the API's words", "details": "why", "hint": None})
    return classify("insert into t", error, httpx.Response(status, headers=headers))


@pytest.mark.parametrize(
    ("sqlstate", "status"),
    [("40001", 500), ("40P01", 500), ("55P03", 500), ("53300", 503), ("PGRST000", 503), ("PGRST003", 504),
     ("57P01", 503), ("08006", 503), ("PGRST205", 404), ("429", 429), ("502", 502), ("520", 520), ("544", 544)],
)  # fmt: skip
def test_what_may_pass_is_tried_again(sqlstate: str, status: int) -> None:
    assert isinstance(said(sqlstate, status), Transient)


@pytest.mark.parametrize(
    ("sqlstate", "status", "kind"),
    [("23505", 409, ApiError), ("23503", 409, ApiError), ("23502", 400, ApiError), ("23514", 400, ApiError),
     ("22P02", 400, ApiError), ("42703", 400, ApiError), ("P0001", 400, ApiError), ("21000", 400, ApiError),
     ("42501", 403, Refused), ("PGRST301", 401, Refused), ("401", 401, Refused), ("402", 402, Refused),
     ("540", 540, Refused), ("57014", 500, BatchTooLarge), ("413", 413, BatchTooLarge)],
)  # fmt: skip
def test_what_is_final_is_named(sqlstate: str, status: int, kind: type[Exception]) -> None:
    assert type(said(sqlstate, status)) is kind


def test_the_message_carries_the_apis_own_words_and_what_was_asked() -> None:
    error = said("23503", 409)
    assert str(error) == "insert into t: the API's words (23503)"
    assert isinstance(error, ProvisionError)
    assert error.hint == "why"


@pytest.mark.parametrize(
    "kind", [k for k in vars(httpx).values() if isinstance(k, type) and issubclass(k, httpx.HTTPError)]
)
def test_every_error_of_the_http_library_has_a_name_of_ours(kind: type[httpx.HTTPError]) -> None:
    error = kind.__new__(kind)
    Exception.__init__(error, "boom")
    mapped = unreachable("read of t", "http://127.0.0.1", error)
    assert isinstance(mapped, Transient)
    assert isinstance(mapped.final, Unreachable)


def test_an_untrusted_certificate_is_not_tried_again() -> None:
    error = httpx.ConnectError("[SSL: CERTIFICATE_VERIFY_FAILED] self-signed")
    assert isinstance(unreachable("read", "https://127.0.0.1", error), Unreachable)


class Flaky:
    def __init__(self, *faults: Exception) -> None:
        self.faults = list(faults)
        self.calls = 0

    def __call__(self) -> str:
        self.calls += 1
        if self.faults:
            raise self.faults.pop(0)
        return "done"


def passing(retry_after: float | None = None) -> Transient:
    return Transient("busy", ApiError("still busy"), retry_after)


def test_a_passing_fault_is_survived_and_told() -> None:
    told: list[str] = []
    slept: list[float] = []
    action = Flaky(passing(), passing())
    assert policy(told.append, sleep=slept.append)(action) == "done"
    assert (action.calls, len(slept)) == (3, 2)
    assert told[0].startswith("busy; attempt 2 of 6 in ")


def test_the_wait_that_the_server_asks_for_is_kept_up_to_a_minute() -> None:
    slept: list[float] = []
    policy(lambda _: None, sleep=slept.append)(Flaky(passing(7), passing(3600)))
    assert slept == [7, 60]


def test_waits_are_never_longer_than_eight_seconds_by_themselves() -> None:
    slept: list[float] = []
    policy(lambda _: None, sleep=slept.append, attempts=20)(Flaky(*[passing()] * 15))
    assert all(0 <= wait <= 8 for wait in slept)


def test_a_fault_that_stays_ends_as_the_users_error() -> None:
    action = Flaky(*[passing()] * 99)
    with pytest.raises(ApiError, match="still busy"):
        policy(lambda _: None, sleep=lambda _: None)(action)
    assert action.calls == 6


def test_a_final_error_is_not_tried_again() -> None:
    action = Flaky(ApiError("no"))
    with pytest.raises(ApiError):
        policy(lambda _: None, sleep=lambda _: None)(action)
    assert action.calls == 1
    assert RetryError not in ApiError.__mro__
