import base64
import copy
import json
import pickle

import pytest

from provision.errors import ConfigError, Refused
from provision.target import Secret, Target, from_environment

KEY = "sb_secret_N7UND0UgjKTVK-Uodkm0Hg_xSvEMPvz"
LOCAL = {"SUPABASE_URL": "http://127.0.0.1:54321", "SUPABASE_SECRET_KEY": KEY}


def jwt(role: str) -> str:
    part = base64.urlsafe_b64encode(json.dumps({"role": role}).encode()).decode().rstrip("=")
    return f"eyJhbGciOiJIUzI1NiJ9.{part}.c2lnbmF0dXJl"


def test_nothing_set_means_no_target() -> None:
    assert from_environment({}, {}) is None


def test_the_environment_wins_over_dotenv() -> None:
    target = from_environment(LOCAL, {"SUPABASE_URL": "http://localhost:1", "SUPABASE_SECRET_KEY": "other"})
    assert target is not None
    assert (target.url, target.key.reveal()) == ("http://127.0.0.1:54321", KEY)


def test_dotenv_alone_is_enough() -> None:
    assert from_environment({}, dict(LOCAL)) is not None


def test_the_secret_key_wins_over_the_service_role_key() -> None:
    target = from_environment({**LOCAL, "SUPABASE_SERVICE_ROLE_KEY": jwt("service_role")}, {})
    assert target is not None
    assert target.key.reveal() == KEY


def test_a_hosted_target_is_refused_unless_it_is_listed() -> None:
    hosted = {**LOCAL, "SUPABASE_URL": "https://abcdefghijklmnopqrst.supabase.co"}
    with pytest.raises(Refused, match="abcdefghijklmnopqrst") as refused:
        from_environment(hosted, {})
    assert "PROVISION_STAGING_REFS=abcdefghijklmnopqrst" in refused.value.hint
    target = from_environment({**hosted, "PROVISION_STAGING_REFS": "other, abcdefghijklmnopqrst"}, {})
    assert target is not None
    assert target.ref == "abcdefghijklmnopqrst"


def test_a_production_ref_is_refused_even_when_it_is_listed_as_staging() -> None:
    refs = {"PROVISION_STAGING_REFS": "abc", "PROVISION_PRODUCTION_REFS": "abc"}
    with pytest.raises(Refused, match="never writes there"):
        from_environment({**LOCAL, "SUPABASE_URL": "https://abc.supabase.co", **refs}, {})


def test_a_custom_domain_is_guarded_by_its_host_name() -> None:
    custom = {**LOCAL, "SUPABASE_URL": "https://db.club.example"}
    with pytest.raises(Refused):
        from_environment(custom, {})
    assert from_environment({**custom, "PROVISION_STAGING_REFS": "db.club.example"}, {}) is not None


@pytest.mark.parametrize("host", ["localhost", "127.0.0.1", "127.1.2.3", "[::1]", "supabase.localhost"])
def test_loopback_is_always_allowed(host: str) -> None:
    assert from_environment({**LOCAL, "SUPABASE_URL": f"http://{host}:54321"}, {}) is not None


def test_a_host_that_only_looks_like_loopback_is_guarded() -> None:
    with pytest.raises(Refused):
        from_environment({**LOCAL, "SUPABASE_URL": "https://127.0.0.1.example.com"}, {})


@pytest.mark.parametrize(
    ("change", "words"),
    [
        ({"SUPABASE_URL": ""}, "SUPABASE_URL is not set"),
        ({"SUPABASE_SECRET_KEY": ""}, "SUPABASE_SECRET_KEY is not set"),
        ({"SUPABASE_URL": "127.0.0.1:54321"}, "not a project URL"),
        ({"SUPABASE_URL": "http://127.0.0.1:99999"}, "not a URL"),
        ({"SUPABASE_URL": "http://127.0.0.1/rest/v1"}, "has a path"),
        ({"SUPABASE_URL": "http://user:word@127.0.0.1"}, "not a project URL"),
        ({"SUPABASE_URL": "http://db.example.com"}, "unencrypted"),
        ({"SUPABASE_SECRET_KEY": "sb_publishable_abcdefgh"}, "publishable"),
        ({"SUPABASE_SECRET_KEY": jwt("anon")}, "role 'anon'"),
        ({"SUPABASE_SECRET_KEY": "a.b.c"}, "role 'unreadable'"),
        ({"SUPABASE_SECRET_KEY": "sb_secret_with\nnewline"}, "characters that no key has"),
    ],
)
def test_bad_settings_are_named_without_the_key(change: dict[str, str], words: str) -> None:
    settings = {**LOCAL, **change}
    with pytest.raises(ConfigError, match=words) as error:
        from_environment(settings, {})
    assert settings["SUPABASE_SECRET_KEY"] not in str(error.value) + error.value.hint or not change.get(
        "SUPABASE_SECRET_KEY", "x"
    )


def test_a_key_shows_itself_in_no_repr_copy_or_pickle() -> None:
    target = Target("http://127.0.0.1", Secret(KEY))
    shown = f"{target} {target!r} {target.key} {target.key!r} {[target]} {vars(type(target))}"
    assert KEY not in shown
    with pytest.raises(TypeError):
        pickle.dumps(target)
    with pytest.raises(TypeError):
        copy.deepcopy(target)
