import json
import re
from dataclasses import dataclass, field
from pathlib import Path
from typing import Literal

import pytest

from worldkv.config import load, of_table, table
from worldkv.errors import InvalidConfig
from worldkv.rpc import TLS
from worldkv.service import ServiceConfig


@dataclass(frozen=True)
class Inner:
    key: Path | None = None
    share: float = 0.5


@dataclass(frozen=True)
class Outer:
    name: str
    size: int = 1
    fast: bool = False
    mode: Literal["ram", "redis"] = "ram"
    shards: tuple[str, ...] = ()
    inner: Inner = field(default_factory=Inner)


def read(tmp_path, text: str, **environment: str) -> Outer:
    file = tmp_path / "config.toml"
    file.write_text(text)
    return load(Outer, "WORLDKV_TEST_", file, {f"WORLDKV_TEST_{key}": value for key, value in environment.items()})


def test_the_environment_wins_over_the_file_and_the_file_over_defaults(tmp_path):
    text = 'name = "a"\nsize = 2\nshards = ["x", "y"]\n[inner]\nkey = "/k"\nshare = 1'
    got = read(tmp_path, text, SIZE="3_000", FAST="yes", INNER__SHARE="0.25")
    assert got == Outer("a", 3000, True, "ram", ("x", "y"), Inner(Path("/k"), 0.25))
    assert type(read(tmp_path, text).inner.share) is float


def test_the_environment_alone_is_enough():
    names = {"WORLDKV_TEST_NAME": "a", "WORLDKV_TEST_SHARDS": "x, y,", "WORLDKV_TEST_INNER__KEY": "", "HOME": "/root"}
    assert load(Outer, "WORLDKV_TEST_", None, {**names, "WORLDKV_TEST_MODE": "redis"}) == Outer(
        "a", mode="redis", shards=("x", "y")
    )


@pytest.mark.parametrize(
    ("text", "environment", "words"),
    [
        ('name = "a"\nsise = 2', {}, "unknown setting sise = 2; known here: fast, inner, mode, name, shards, size"),
        ('name = "a"\n[inner]\nkex = 2', {}, "unknown setting inner.kex = 2; known here: key, share"),
        ('name = "a"', {"SISE": "2"}, "unknown setting WORLDKV_TEST_SISE = '2'"),
        ('name = "a"', {"INNER__KEX": "2"}, "unknown setting WORLDKV_TEST_INNER__KEX = '2'"),
        ("", {}, "setting name is missing: expected text"),
        ("name = 3", {}, "setting name = '3': expected text"),
        ('name = "a"\nsize = "2"', {}, "setting size = '2': expected a whole number"),
        ('name = "a"\nsize = true', {}, "setting size = 'True': expected a whole number"),
        ('name = "a"\nsize = 2.5', {}, "setting size = '2.5': expected a whole number"),
        ('name = "a"', {"SIZE": "2.5"}, "setting WORLDKV_TEST_SIZE = '2.5': expected a whole number"),
        ('name = "a"', {"FAST": "maybe"}, "setting WORLDKV_TEST_FAST = 'maybe': expected true or false"),
        ('name = "a"\nmode = "disk"', {}, "setting mode = 'disk': expected one of 'ram', 'redis'"),
        ('name = "a"', {"MODE": "disk"}, "setting WORLDKV_TEST_MODE = 'disk': expected one of 'ram', 'redis'"),
        ('name = "a"\nshards = "x"', {}, "setting shards = 'x': expected a list of text"),
        ('name = "a"\nshards = [1]', {}, "setting shards = '1': expected text"),
        ('name = "a"\ninner = 1', {}, "setting inner = '1': expected a table of Inner"),
        ('name = "a"', {"NAME__X": "1"}, "WORLDKV_TEST_NAME__X looks for a table 'name', but that is set to 'a'"),
        ('name = "a"\n[inner]\nshare = "x"', {}, "setting inner.share = 'x': expected a number"),
        ("name = ", {}, "is not TOML"),
        ('name = "a"\ntokens = "eyJx"', {}, "unknown setting tokens = ...; known here"),
        ('name = "a"', {"INNER__SECRET_": "x"}, "unknown setting WORLDKV_TEST_INNER__SECRET_ = ...; known here"),
    ],
)
def test_what_is_wrong_is_named_with_its_value_and_what_was_expected(tmp_path, text, environment, words):
    with pytest.raises(InvalidConfig, match=re.escape(words)):
        read(tmp_path, text, **environment)


def test_a_file_that_is_not_there_is_refused(tmp_path):
    with pytest.raises(InvalidConfig, match=r"none\.toml cannot be read: No such file"):
        load(Outer, "X_", tmp_path / "none.toml", {})


def test_services_can_be_told_all_of_their_settings(tmp_path):
    names = {"WK_ADDRESS": "0.0.0.0:1", "WK_TLS__KEY": "/k", "WK_TLS__CERTIFICATE": "/c", "WK_LOG": "json"}
    config = load(ServiceConfig, "WK_", None, names)
    assert (config.address, config.tls.key, config.log) == ("0.0.0.0:1", Path("/k"), "json")


def test_settings_are_read_again_from_their_table():
    config = ServiceConfig("a:1", tls=TLS(Path("/c"), Path("/k")), drain_seconds=3, log="json")
    written = json.loads(json.dumps(table(config)))
    assert written["tls"] == {"certificate": "/c", "key": "/k", "name": ""}
    assert of_table(ServiceConfig, written) == config
    with pytest.raises(InvalidConfig, match="unknown setting sise"):
        of_table(ServiceConfig, {"sise": 1})
