"""The gateway through supabase-py, with its own silent retries off and every foreign error given our name."""

from __future__ import annotations

import re
import ssl
import threading
import time
from collections.abc import Callable, Iterator, Sequence
from itertools import chain
from pathlib import Path
from typing import Any, TypeVar
from urllib.parse import quote

import httpx
from postgrest import APIError, CountMethod, ReturnMethod
from pydantic_core import to_json
from supabase import Client, ClientOptions
from supabase.client import create_client

from provision import __version__
from provision.errors import ApiError, ConfigError, ProvisionError, Refused, TargetError, Unreachable
from provision.fixtures import schema as openapi
from provision.fixtures.schema import Schema
from provision.gateway import PARTED, BatchTooLarge, Filter, Look, Row
from provision.gateway.retry import Notify, Transient, policy
from provision.target import CA_VARIABLE, Target

PAGE = 1000
_TIMEOUT = httpx.Timeout(70, connect=10)
_PASSING = {"40001", "40P01", "55P03", "53300", "57P01", "PGRST000", "PGRST001", "PGRST002", "PGRST003"}
_SCHEMA_CACHE = {"PGRST202", "PGRST204", "PGRST205"}
_PASSING_STATUS = {408, 429, 502, 503, 504, 520, 521, 522, 523, 524, 544}
_RESTRICTED = {402: "the project is restricted (quota or billing)", 540: "the project is paused"}

_UNLESS_THERE = "return=minimal,resolution=ignore-duplicates,missing=default"

T = TypeVar("T")
_Query = Any  # supabase-py's builders share methods, not a type


class SupabaseGateway:
    """One supabase-py client, whose connections several threads share."""

    def __init__(self, target: Target, *, notify: Notify, sleep: Callable[[float], None] = time.sleep) -> None:
        self._target = target
        self._latest = threading.local()  # the response that this thread got last: the library's errors do not name it
        self.retries = 0
        self._http = httpx.Client(
            timeout=_TIMEOUT,
            verify=_trust(target.ca_file) if target.ca_file else True,
            follow_redirects=False,
            headers={"User-Agent": f"provision/{__version__}"},
            event_hooks={"response": [self._remember]},
        )
        options = ClientOptions(
            schema=target.schema,
            postgrest_client_retry=False,
            httpx_client=self._http,
            auto_refresh_token=False,
            persist_session=False,
        )
        self._client: Client = create_client(target.url, target.key.reveal(), options)
        self._notify, self._sleep = notify, sleep

    def _remember(self, response: httpx.Response) -> None:
        self._latest.response = response

    def _again(self, text: str) -> None:
        self.retries += 1
        self._notify(text)

    def close(self) -> None:
        self._http.close()

    def schema(self) -> Schema:
        def read() -> Schema:
            response = self._http.get(f"{self._target.url}/rest/v1/", headers=self._target.headers)
            if not response.is_success:
                raise APIError(_body(response))
            return openapi.from_openapi(response.json())

        try:
            return self._call("the API's schema", read)
        except (KeyError, TypeError, ValueError):
            raise TargetError(
                f"{self._target.url}/rest/v1/ did not answer with an OpenAPI document.",
                hint="Check that SUPABASE_URL is a Supabase project and that its Data API is on.",
            ) from None

    def insert(self, table: str, rows: Sequence[Row], *, key: str) -> None:
        body = to_json(rows)  # several times faster than the library's way, whose arguments these are
        columns = ",".join(f'"{name}"' for name in dict.fromkeys(chain.from_iterable(rows)))

        def write() -> None:
            response = self._http.post(
                f"{self._target.url}/rest/v1/{quote(table)}",
                params={"on_conflict": key, "columns": columns},
                headers={**self._target.headers, "Content-Type": "application/json", "Prefer": _UNLESS_THERE},
                content=body,
            )
            if not response.is_success:
                raise APIError(_body(response))

        self._call(f"insert into {table}", write, divisible=len(rows) > 1)

    def add(self, table: str, rows: Sequence[Row], *, columns: Sequence[str], look: Look) -> Sequence[Row]:
        attempts = 0

        def write() -> Sequence[Row]:
            nonlocal attempts
            attempts += 1
            if attempts > 1 and (found := look()):
                return found
            query = self._client.table(table).insert(list(rows), default_to_null=False).select(*map(_name, columns))
            data: Any = query.execute().data
            return list(data)

        return self._call(f"insert into {table}", write, divisible=len(rows) > 1, patient=len(rows) < PARTED)

    def count(self, table: str, where: Sequence[Filter]) -> int:
        def read() -> int:
            column = _name(where[0].column) if where else "*"
            query = self._client.table(table).select(column, count=CountMethod.exact).limit(1)
            return _filtered(query, where).execute().count or 0

        return self._call(f"count of {table}", read)

    def select(self, table: str, columns: Sequence[str], where: Sequence[Filter], *, key: str) -> Iterator[Row]:
        last: Sequence[Filter] = ()
        names = ",".join(map(_name, dict.fromkeys([key, *columns])))
        while True:
            page = self._page(table, names, [*where, *last], key)
            yield from page
            if not page:
                return
            last = (Filter(key, "gt", page[-1][key]),)

    def _page(self, table: str, names: str, where: Sequence[Filter], key: str) -> list[Row]:
        def read() -> list[Row]:
            query = _filtered(self._client.table(table).select(names), where)
            rows: list[Row] = query.order(key).limit(PAGE).execute().data
            return rows

        return self._call(f"read of {table}", read)

    def last(self, table: str, column: str, where: Sequence[Filter]) -> Any:
        def read() -> Any:
            query = _filtered(self._client.table(table).select(_name(column)), [*where, Filter(column, "has", True)])
            rows = query.order(column, desc=True).limit(1).execute().data
            return rows[0][column] if rows else None

        return self._call(f"read of {table}", read)

    def delete(self, table: str, where: Sequence[Filter]) -> int:
        if not where:
            raise ValueError("a delete without a condition")

        def remove() -> int:
            query = self._client.table(table).delete(count=CountMethod.exact, returning=ReturnMethod.minimal)
            return _filtered(query, where).execute().count or 0

        return self._call(f"delete from {table}", remove, divisible=not _is_single(where))

    def _call(self, what: str, action: Callable[[], T], *, divisible: bool = False, patient: bool = False) -> T:
        """Run one request under the retry policy, its errors mapped; one that is not `divisible` into smaller ones is
        tried again when it was too large, a `patient` one when it took too long."""

        def attempt() -> T:
            self._latest.response = None
            try:
                return action()
            except APIError as error:
                meant = classify(what, error, self._latest.response)
                if isinstance(meant, BatchTooLarge) and (not divisible or (patient and meant.sqlstate == "57014")):
                    meant = Transient(str(meant), meant)
                raise meant from None
            except httpx.HTTPError as error:
                raise unreachable(what, self._target.url, error) from None

        return policy(self._again, sleep=self._sleep)(attempt)


def _is_single(where: Sequence[Filter]) -> bool:
    """Whether conditions name a single value, so that they cannot be parted."""
    values = [value for f in where for value in (f.value if isinstance(f.value, list) else [f.value])]
    return len(set(values)) == 1


def _trust(ca_file: Path) -> ssl.SSLContext:
    """A context that trusts what a file holds; ConfigError when no certificate can be read from it."""
    try:
        return ssl.create_default_context(cafile=ca_file)
    except OSError as error:
        reason = "there is no certificate in it" if isinstance(error, ssl.SSLError) else error.strerror
        raise ConfigError(f"{CA_VARIABLE}: {ca_file}: {reason}.", hint="Name a PEM file, or unset it.") from None


def _name(column: str) -> str:
    """A column's name in a list of columns or conditions, where the library takes out blanks that are not quoted."""
    return column if re.fullmatch(r"\w+", column) else f'"{column}"'


def _filtered(query: _Query, where: Sequence[Filter]) -> _Query:
    for condition in where:
        query = _condition(query, *condition)
    return query


def _condition(query: _Query, column: str, operator: str, value: Any) -> _Query:
    if operator == "in":
        return query.in_(column, value)
    if operator == "has":
        return query.not_.is_(column, "null")
    if operator == "lacks":
        return query.not_.like(column, f"*{value}*")
    if operator == "outside":
        name = _name(column)
        return query.or_(f"{name}.is.null,{name}.lt.{value[0]},{name}.gt.{value[1]}")
    if operator == "among":
        single = ",".join(str(low) for low, high in value if low == high)
        name = _name(column)
        parts = [f"and({name}.gte.{low},{name}.lte.{high})" for low, high in value if low != high]
        return query.or_(",".join([*([f"{name}.in.({single})"] if single else []), *parts]))
    if operator == "is" or value is None:
        return query.is_(column, value)
    return query.filter(column, operator, str(value).lower() if isinstance(value, bool) else value)


def _body(response: httpx.Response) -> dict[str, Any]:
    try:
        body = response.json()
    except ValueError:
        body = None
    return body if isinstance(body, dict) else {"message": response.reason_phrase, "code": str(response.status_code)}


def classify(what: str, error: APIError, response: httpx.Response | None) -> Exception:
    """What an API's refusal means for a provisioning request (`what`): retry, fewer rows, or a named end."""
    status = response.status_code if response is not None else 0
    sqlstate, message = error.code or "", (error.message or "").strip() or "no message"
    words = f"{what}: {message}" + (f" ({sqlstate})" if sqlstate else "")
    if status in _RESTRICTED:
        return Refused(f"{what}: {_RESTRICTED[status]}.", hint="Open the project's dashboard.")
    if sqlstate in {"57014", "54000"} or status == 413:
        return BatchTooLarge(words, sqlstate=sqlstate, status=status)
    if status == 401 or sqlstate.startswith("PGRST30"):
        return Refused(f"{what}: the API does not accept the key: {message}", hint="Check SUPABASE_SECRET_KEY.")
    if sqlstate == "42501":
        return Refused(words, hint=error.hint or "Grant the table to service_role (GRANT … TO service_role).")
    final = ApiError(words, sqlstate=sqlstate, status=status, hint=_hint(error))
    if sqlstate in _SCHEMA_CACHE:
        return Transient(f"{words} (the schema cache may be stale)", final, retry_after=1.0)
    if sqlstate in _PASSING or sqlstate.startswith("08") or status in _PASSING_STATUS:
        return Transient(f"{what}: HTTP {status} {message}"[:160], final, _retry_after(response))
    return final


def _hint(error: APIError) -> str:
    return " ".join(str(part) for part in (error.details, error.hint) if part)[:400]


def _retry_after(response: httpx.Response | None) -> float | None:
    value = response.headers.get("Retry-After", "") if response is not None else ""
    return float(value) if value.isdigit() else None


def unreachable(what: str, url: str, error: httpx.HTTPError) -> Exception:
    """What a failed exchange means; every verb is idempotent, so all but certificate errors may be tried again."""
    reason = str(error) or type(error).__name__
    final: ProvisionError = Unreachable(
        f"{url} does not answer ({what}: {reason}).", hint="Check SUPABASE_URL and that the project is running."
    )
    if "CERTIFICATE_VERIFY_FAILED" in reason:
        return Unreachable(f"{url}: the certificate is not trusted.", hint="Name its CA with PROVISION_CA_FILE.")
    return Transient(f"{what}: {reason}", final)
