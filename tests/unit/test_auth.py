"""Tokens: what is signed is read again, what is not ours is refused in words, and secrets are never shown."""

import base64
import json
import os
import string
from time import monotonic, time

import jwt
import pytest
from hypothesis import given
from hypothesis import strategies as st

from worldkv import auth
from worldkv.auth import Authority, Bearer, Claims
from worldkv.errors import Forbidden, InvalidConfig, InvalidInput, Unauthenticated

ONE, TWO = "1" * 32, "2" * 32
names = st.text(string.ascii_lowercase + string.digits, min_size=1, max_size=63)
claims = st.one_of(
    st.builds(Claims, names, st.sampled_from(["tenant", "operator", "service"])),
    st.builds(Claims, names, st.just("watch"), session=st.text(min_size=1)),
    st.builds(Claims, names, st.just("world"), world=st.text(min_size=1), at=st.none() | st.integers(0, 1 << 40)),
)


@pytest.fixture(scope="module")
def secrets(tmp_path_factory):
    file = tmp_path_factory.mktemp("secrets") / "secrets"
    file.write_text(f"# the first signs\n{ONE}\n\n{TWO}\n")
    return file


@pytest.fixture(scope="module")
def authority(secrets):
    return Authority(secrets)


def signed(secret=ONE, algorithm="HS256", **content) -> str:
    whole = {"sub": "acme", "role": "tenant", "exp": int(time()) + 60, **content}
    return jwt.encode({name: value for name, value in whole.items() if value is not None}, secret, algorithm)


@given(claims, st.floats(1, auth.LONGEST_SECONDS))
def test_what_is_signed_is_read_again(authority, said, seconds):
    read = authority.read(authority.sign(said, seconds))
    assert seconds - 1 < read.expires - time() < seconds + 1
    assert read == Claims(said.tenant, said.role, said.session, said.world, said.at, read.expires)


def test_all_secrets_verify(authority):
    for secret in (ONE, TWO):
        assert authority.read(signed(secret)).tenant == "acme"


@pytest.mark.parametrize(
    ("token", "words"),
    [
        ("", "malformed"),
        ("eyJ.x.y", "malformed"),
        (signed("3" * 32), "somebody else"),
        (signed("1" * 64, "HS512"), "malformed"),
        (signed("", "none"), "malformed"),
        (signed(exp=int(time()) - 1), "expired"),
        (signed(exp=None), "malformed"),
        (signed(exp="soon"), "makes no sense"),
        (signed(exp=10**400), "makes no sense"),
        (signed(sub=None), "malformed"),
        (signed(sub="../acme"), "makes no sense"),
        (signed(role="root"), "makes no sense"),
        (signed(role=["tenant"]), "makes no sense"),
        (signed(role="watch"), "makes no sense"),
        (signed(world="w"), "makes no sense"),
        (signed(role="world", world="w", at=-1), "makes no sense"),
        (signed(role="world", world="w", at=True), "makes no sense"),
    ],
    ids=map(str, range(17)),  # a token is another one each second, and tests have the same names in all processes
)
def test_what_is_not_ours_is_refused(authority, token, words):
    for _ in range(2):
        with pytest.raises(Unauthenticated, match=words):
            authority.read(token)


@given(st.text() | st.binary().map(lambda each: each.decode("latin-1")))
def test_no_text_is_a_token(authority, text):
    with pytest.raises(Unauthenticated) as caught:
        authority.read(text)
    assert len(text) < 12 or text not in str(caught.value)


def test_bytes_that_are_no_text_are_no_token(authority):
    good = authority.sign(Claims("acme"), 60)
    with pytest.raises(Unauthenticated, match="malformed"):
        authority.read(good + b"\xff".decode(errors="surrogateescape"))


def test_a_changed_token_is_no_token(authority):
    head, _, mark = authority.sign(Claims("acme"), 60).split(".")
    forged = base64.urlsafe_b64encode(json.dumps({"sub": "other", "role": "service", "exp": 1 << 40}).encode())
    with pytest.raises(Unauthenticated, match="somebody else"):
        authority.read(f"{head}.{forged.decode().rstrip('=')}.{mark}")


def test_a_token_that_was_known_expires_too(authority, monkeypatch):
    token = authority.sign(Claims("acme"), 60)
    authority.read(token)
    monkeypatch.setattr(auth, "time", lambda: time() + 62)
    with pytest.raises(Unauthenticated, match="expired"):
        authority.read(token)


def rewrite(file, text) -> None:
    """Write a file anew, so that it is seen to be another one."""
    before = file.stat().st_mtime_ns
    file.write_text(text)
    os.utime(file, ns=(before + 10**9, before + 10**9))


def test_a_secret_is_replaced_while_all_work(tmp_path, monkeypatch):
    monkeypatch.setattr(auth, "LOOK_SECONDS", 0.0)
    file = tmp_path / "secrets"
    file.write_text(ONE)
    authority, part = Authority(file), Bearer(secret=file)
    old, own = authority.sign(Claims("acme"), 60), part.metadata()
    rewrite(file, f"{TWO}\n{ONE}")
    new = authority.sign(Claims("acme"), 60)
    assert authority.read(old) == authority.read(new)
    assert part.metadata() != own
    rewrite(file, TWO)
    assert authority.read(new)
    with pytest.raises(Unauthenticated, match="somebody else"):
        authority.read(old)


def test_who_sees_a_new_secret_later_believes_it_at_once(tmp_path):
    file = tmp_path / "secrets"
    file.write_text(ONE)
    slow = Authority(file)
    assert slow.read(slow.sign(Claims("acme"), 60))
    rewrite(file, TWO)
    assert slow.read(Authority(file).sign(Claims("acme"), 60)).tenant == "acme"


def test_a_file_that_breaks_later_counts_as_it_was(tmp_path, monkeypatch, caplog):
    monkeypatch.setattr(auth, "LOOK_SECONDS", 0.0)
    file = tmp_path / "secrets"
    file.write_text(ONE)
    authority = Authority(file)
    token = authority.sign(Claims("acme"), 60)
    rewrite(file, "short")
    assert authority.read(token).tenant == "acme"
    file.unlink()
    assert authority.read(token).tenant == "acme"
    assert "at least 32" in caplog.text
    assert "cannot be read" in caplog.text


@pytest.mark.parametrize(
    ("text", "words"),
    [("", "no secret"), ("# none", "no secret"), (f"{ONE}\nshort", "5 characters"), (b"\xff" * 40, "not text")],
)
def test_secrets_that_cannot_be_used_are_refused(tmp_path, text, words):
    file = tmp_path / "secrets"
    file.write_bytes(text if isinstance(text, bytes) else text.encode())
    with pytest.raises(InvalidConfig, match=words) as caught:
        Authority(file)
    assert ONE not in str(caught.value)


def test_a_file_that_is_not_there_is_said_so(tmp_path):
    for make in (Authority, lambda file: Bearer(str(file)), lambda file: Bearer(secret=file)):
        with pytest.raises(InvalidConfig, match="cannot be read"):
            make(tmp_path / "none")


@pytest.mark.parametrize("seconds", [0, -1, float("nan"), float("inf"), 1e12])
def test_a_token_is_good_for_a_time(authority, seconds):
    with pytest.raises(InvalidInput, match="good for"):
        authority.sign(Claims("acme"), seconds)


def test_a_client_shows_what_it_was_given(authority, secrets, tmp_path):
    token = authority.sign(Claims("acme"), 60)
    (tmp_path / "token").write_text(token + "\n")
    for told in (token, str(tmp_path / "token")):
        shown = dict(Bearer(told).metadata())
        assert authority.caller(shown[auth.TOKEN_KEY], "").tenant == "acme"
        assert auth.TENANT_KEY not in shown
    shown = dict(Bearer(secret=secrets).metadata("other"))
    assert authority.caller(shown[auth.TOKEN_KEY], shown[auth.TENANT_KEY]).tenant == "other"
    assert Bearer().metadata("acme") == ((auth.TENANT_KEY, "acme"),)
    (tmp_path / "token").write_text("password")
    with pytest.raises(InvalidConfig, match="holds no token") as caught:
        Bearer(str(tmp_path / "token"))
    assert "password" not in str(caught.value)


def test_a_client_shows_the_newest_token_of_its_file(authority, tmp_path, monkeypatch):
    monkeypatch.setattr(auth, "LOOK_SECONDS", 0.0)
    file = tmp_path / "token"
    file.write_text(authority.sign(Claims("acme"), 60))
    bearer = Bearer(str(file))
    rewrite(file, newer := authority.sign(Claims("acme"), 70))
    assert dict(bearer.metadata())[auth.TOKEN_KEY] == f"Bearer {newer}"


def test_a_part_signs_anew_before_its_token_expires(secrets, authority, monkeypatch):
    bearer, now = Bearer(secret=secrets), monotonic()
    first = bearer.metadata()
    assert bearer.metadata() == first
    for name, clock in (("monotonic", now), ("time", time())):
        monkeypatch.setattr(auth, name, lambda clock=clock: clock + auth.SERVICE_SECONDS / 2 + 2)
    shown = dict(bearer.metadata())[auth.TOKEN_KEY]
    assert authority.caller(shown, "").left > auth.SERVICE_SECONDS - 1


@pytest.mark.parametrize("shown", ["", "Bearer", "Bearer ", "Basic dXNlcg==", "token"])
def test_a_call_without_a_token_is_told_what_it_needs(authority, shown):
    with pytest.raises(Unauthenticated, match="authorization: Bearer TOKEN"):
        authority.caller(shown, "")


def test_only_parts_speak_for_others():
    assert Claims("default", "service").speaking_for("acme").tenant == "acme"
    for role in ("tenant", "operator"):
        assert Claims("acme", role).speaking_for("acme").tenant == "acme"
        with pytest.raises(Forbidden, match="acme, not for other"):
            Claims("acme", role).speaking_for("other")
    with pytest.raises(InvalidInput, match="1 to 63"):
        Claims("default", "service").speaking_for("../acme")


ROLES = {
    "tenant": Claims("acme"),
    "operator": Claims("acme", "operator"),
    "service": Claims("acme", "service"),
    "watch": Claims("acme", "watch", session="w1"),
    "world": Claims("acme", "world", world="hall", at=3),
}


@pytest.mark.parametrize(
    ("method", "allowed"),
    [
        ("/worldkv.v1.Sessions/List", {"tenant", "operator", "service"}),
        ("/worldkv.v1.Sessions/Open", {"tenant", "operator", "service", "world"}),
        ("/worldkv.v1.Sessions/Walk", {"tenant", "operator", "service", "world", "watch"}),
        ("/worldkv.v1.Sessions/Look", {"tenant", "operator", "service", "world", "watch"}),
        ("/worldkv.v1.Sessions/Fork", {"tenant", "operator", "service"}),
        ("/worldkv.v1.KVStore/Get", {"operator", "service"}),
        ("/worldkv.v1.Fleet/Stop", {"operator", "service"}),
        ("/grpc.reflection.v1alpha.ServerReflection/ServerReflectionInfo", {"tenant", "operator", "service"}),
        ("/elsewhere.Service/Walk", {"operator", "service"}),
    ],
)
def test_roles_may_call_what_is_theirs(method, allowed):
    for role, who in ROLES.items():
        if role in allowed:
            who.check_call(method)
        else:
            with pytest.raises(Forbidden, match=f"role {role} may not call"):
                who.check_call(method)


def test_a_link_to_a_world_opens_forks_of_that_one():
    ROLES["world"].check_open("hall", 3, fork=True)
    for world, at, fork in (
        ("other", 3, True),
        ("hall", 4, True),
        ("hall", None, True),
        ("", 3, True),
        ("hall", 3, False),
    ):
        with pytest.raises(Forbidden, match="opens forks of world 'hall' at chunk 3"):
            ROLES["world"].check_open(world, at, fork)
    Claims("acme", "world", world="hall").check_open("hall", None, fork=True)
    with pytest.raises(Forbidden, match="for watching"):
        ROLES["watch"].check_open("hall", 3, fork=True)
    ROLES["tenant"].check_open("other", None, fork=False)


def test_a_link_to_watch_watches_that_one():
    ROLES["watch"].check_join("w1", True)
    for session, watch in (("w1", False), ("w2", True)):
        with pytest.raises(Forbidden, match="watching one session"):
            ROLES["watch"].check_join(session, watch)
    ROLES["tenant"].check_join("s1", False)


def test_tokens_and_secrets_are_not_shown(secrets, authority):
    token = authority.sign(Claims("acme"), 60)
    shown = repr((Bearer(token), Bearer(secret=secrets), authority, authority._secrets.look(), authority.read(token)))
    assert token not in shown
    assert ONE not in shown
