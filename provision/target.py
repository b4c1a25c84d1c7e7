"""Where we may write: the URL, the key (never in a repr) and the staging guard."""

from __future__ import annotations

import base64
import binascii
import ipaddress
import json
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from urllib.parse import urlsplit

from provision.errors import ConfigError, Refused

URL_VARIABLE = "SUPABASE_URL"
KEY_VARIABLES = ("SUPABASE_SECRET_KEY", "SUPABASE_SERVICE_ROLE_KEY")
SCHEMA_VARIABLE = "PROVISION_SCHEMA"
CA_VARIABLE = "PROVISION_CA_FILE"
STAGING_VARIABLE = "PROVISION_STAGING_REFS"
PRODUCTION_VARIABLE = "PROVISION_PRODUCTION_REFS"
_HOSTED = (".supabase.co", ".supabase.in", ".supabase.red")


class Secret:
    """A key that shows itself only through `reveal()`."""

    __slots__ = ("_value",)

    def __init__(self, value: str) -> None:
        self._value = value

    def reveal(self) -> str:
        """The key itself, for a request's header and for nothing else."""
        return self._value

    def __repr__(self) -> str:
        return "***"

    def __reduce__(self) -> tuple[type, tuple[str]]:
        raise TypeError("a secret is not pickled")


@dataclass(frozen=True, slots=True)
class Target:
    """A Supabase that we may write to; `embedded` is the name of the local stack that it is."""

    url: str
    key: Secret
    schema: str = "public"
    ca_file: Path | None = None
    embedded: str = ""
    tls_url: str = ""  # the same API over TLS and HTTP/2, where `url` is not that; races go there

    @property
    def ref(self) -> str:
        """The project's ref on hosted Supabase, elsewhere the host name."""
        host = urlsplit(self.url).hostname or ""
        return host.split(".")[0] if host.endswith(_HOSTED) else host

    @property
    def headers(self) -> dict[str, str]:
        """The headers that carry the key, as Supabase's own clients send them."""
        key = self.key.reveal()
        headers = {"apikey": key, "Authorization": f"Bearer {key}"}
        if self.schema != "public":
            headers |= {"Accept-Profile": self.schema, "Content-Profile": self.schema}
        return headers


def from_environment(environ: Mapping[str, str], dotenv: Mapping[str, str | None]) -> Target | None:
    """The target that the variables name, guarded; None when they name none. The environment wins over `.env`."""
    settings = {**{k: v for k, v in dotenv.items() if v}, **{k: v for k, v in environ.items() if v}}
    url = settings.get(URL_VARIABLE, "").strip()
    key = next((settings[name].strip() for name in KEY_VARIABLES if settings.get(name, "").strip()), "")
    if not url and not key:
        return None
    if not url or not key:
        missing = URL_VARIABLE if not url else KEY_VARIABLES[0]
        raise ConfigError(
            f"{missing} is not set, though its counterpart is.",
            hint=f"Set {missing} in the environment or in .env, or unset both to use the embedded local stack.",
        )
    ca = settings.get(CA_VARIABLE)
    target = Target(
        _origin(url), Secret(_secret_key(key)), settings.get(SCHEMA_VARIABLE, "public"), Path(ca) if ca else None
    )
    _guard(target, settings)
    return target


def _origin(url: str) -> str:
    """`scheme://host[:port]` of a project URL; ConfigError when it is none."""
    try:
        parts = urlsplit(url)
        port = f":{parts.port}" if parts.port else ""
    except ValueError as error:
        raise ConfigError(f"{URL_VARIABLE} is not a URL: {error}.", hint=_URL_HINT) from None
    if parts.scheme not in {"http", "https"} or not parts.hostname or parts.username:
        raise ConfigError(f"{URL_VARIABLE} is not a project URL.", hint=_URL_HINT)
    if parts.path.rstrip("/") or parts.query:
        raise ConfigError(f"{URL_VARIABLE} has a path ({parts.path}); give the project URL alone.", hint=_URL_HINT)
    if parts.scheme == "http" and not is_loopback(parts.hostname):
        raise ConfigError(f"{URL_VARIABLE} is plain http; the key would cross the network unencrypted.", hint=_URL_HINT)
    host = f"[{parts.hostname}]" if ":" in parts.hostname else parts.hostname.rstrip(".")
    return f"{parts.scheme}://{host}{port}"


_URL_HINT = "It looks like https://<project-ref>.supabase.co (Dashboard → Project Settings → Data API)."


def _secret_key(key: str) -> str:
    """The key unchanged when it may write; ConfigError (without the key) when it is a browser's key or no key."""
    hint = f"Set {KEY_VARIABLES[0]} to the project's secret key, sb_secret_… (Dashboard → Project Settings → API keys)."
    if not key.isascii() or not key.isprintable() or " " in key:
        raise ConfigError(f"{KEY_VARIABLES[0]} has characters that no key has.", hint=hint)
    if key.startswith("sb_publishable_"):
        raise ConfigError("The key is a publishable key; seeding and teardown need a secret key.", hint=hint)
    if key.count(".") == 2 and (role := _jwt_role(key)) != "service_role":
        raise ConfigError(f"The key is a legacy JWT of role {role!r}; service_role is needed.", hint=hint)
    return key


def _jwt_role(token: str) -> str:
    payload = token.split(".")[1]
    try:
        claims = json.loads(base64.urlsafe_b64decode(payload + "=" * (-len(payload) % 4)))
    except (binascii.Error, ValueError):
        return "unreadable"
    return str(claims.get("role", "none")) if isinstance(claims, dict) else "unreadable"


def is_loopback(host: str) -> bool:
    """Whether a host name or address is this machine itself."""
    if host == "localhost" or host.endswith(".localhost"):
        return True
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return False


def _guard(target: Target, settings: Mapping[str, str]) -> None:
    """Raise Refused unless the target is this machine or stands in the staging list; production refs never pass."""
    host = urlsplit(target.url).hostname or ""
    names = {target.ref, host}
    if names & _words(settings.get(PRODUCTION_VARIABLE, "")):
        raise Refused(
            f"{target.ref} stands in {PRODUCTION_VARIABLE}: provision never writes there.",
            hint="Point SUPABASE_URL at a staging project.",
        )
    if not is_loopback(host) and not names & _words(settings.get(STAGING_VARIABLE, "")):
        raise Refused(
            f"{target.ref} is not known to be a staging project, so nothing was sent to it.",
            hint=f"If it is one, say so: export {STAGING_VARIABLE}={target.ref}",
        )


def _words(text: str) -> set[str]:
    return set(text.lower().replace(",", " ").split())
