"""When a provisioning request is sent again: after named passing faults; every verb of the gateway is idempotent."""

from __future__ import annotations

import time
from collections.abc import Callable

from tenacity import RetryCallState, Retrying, retry_if_exception_type, stop_after_attempt, stop_after_delay
from tenacity.wait import wait_base, wait_random_exponential

from provision.errors import ProvisionError

Notify = Callable[[str], None]


class Transient(Exception):
    """A fault that may pass: `why` for the user, `retry_after` in seconds if the server says, `final` when it stays."""

    def __init__(self, why: str, final: ProvisionError, retry_after: float | None = None) -> None:
        super().__init__(why)
        self.why = why
        self.final = final
        self.retry_after = retry_after


class _RetryAfterOr(wait_base):
    """The server's `Retry-After` when it gave one, else another wait."""

    def __init__(self, otherwise: wait_base, longest: float) -> None:
        self.otherwise = otherwise
        self.longest = longest

    def __call__(self, retry_state: RetryCallState) -> float:
        fault = retry_state.outcome.exception() if retry_state.outcome else None
        if isinstance(fault, Transient) and fault.retry_after is not None:
            return min(fault.retry_after, self.longest)
        return self.otherwise(retry_state)


def policy(notify: Notify, *, sleep: Callable[[float], None] = time.sleep, attempts: int = 6) -> Retrying:
    """Exponential with full jitter, `Retry-After` honoured up to a minute; after `attempts` or two minutes, the end."""

    def before_sleep(state: RetryCallState) -> None:
        fault = state.outcome.exception() if state.outcome else None
        if isinstance(fault, Transient) and state.next_action:
            wait = state.next_action.sleep
            notify(f"{fault.why}; attempt {state.attempt_number + 1} of {attempts} in {wait:.1f} s")

    def give_up(state: RetryCallState) -> None:
        fault = state.outcome.exception() if state.outcome else None
        if isinstance(fault, Transient):
            raise fault.final from None

    return Retrying(
        sleep=sleep,
        stop=stop_after_attempt(attempts) | stop_after_delay(120),
        wait=_RetryAfterOr(wait_random_exponential(multiplier=0.25, max=8), longest=60),
        retry=retry_if_exception_type(Transient),
        before_sleep=before_sleep,
        retry_error_callback=give_up,
    )
