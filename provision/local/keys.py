"""The keys of a stack: both generations that a hosted project has, random, and never shown in a repr."""

from __future__ import annotations

import base64
import hashlib
import hmac
import json
import secrets
from dataclasses import dataclass, field

_ISSUED = 1_735_689_600  # 2025-01-01: fixed, so that the same secret gives the same keys
_EXPIRES = _ISSUED + 20 * 365 * 24 * 3600


@dataclass(frozen=True, slots=True)
class Keys:
    """What opens a stack's API."""

    jwt_secret: str = field(repr=False)
    secret_key: str = field(repr=False)
    publishable_key: str = field(repr=False)

    @property
    def service_role_key(self) -> str:
        """The legacy JWT of the role service_role."""
        return signed_jwt({"role": "service_role"}, self.jwt_secret)

    @property
    def anon_key(self) -> str:
        """The legacy JWT of the role anon."""
        return signed_jwt({"role": "anon"}, self.jwt_secret)


def new_keys() -> Keys:
    """Fresh random keys."""
    return Keys(secrets.token_urlsafe(48), _opaque("secret"), _opaque("publishable"))


def signed_jwt(claims: dict[str, object], secret: str) -> str:
    """The claims as a JWT signed with HS256, issued and expiring at fixed times unless the claims say otherwise."""
    payload = {"iss": "supabase", "iat": _ISSUED, "exp": _EXPIRES, **claims}
    body = ".".join(_base64(json.dumps(part).encode()) for part in ({"alg": "HS256", "typ": "JWT"}, payload))
    return f"{body}.{_base64(hmac.digest(secret.encode(), body.encode(), 'sha256'))}"


def _opaque(kind: str) -> str:
    """A key in the form `sb_<kind>_<22 characters>_<checksum>`."""
    body = f"sb_{kind}_{secrets.token_urlsafe(17)[:22]}"
    checksum = _base64(hashlib.sha256(f"supabase-self-hosted|{body}".encode()).digest())[:8]
    return f"{body}_{checksum}"


def _base64(data: bytes) -> str:
    return base64.urlsafe_b64encode(data).rstrip(b"=").decode()
