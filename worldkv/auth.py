"""Who is calling: tokens that name a tenant and a role, and the secrets that they are signed with.

A token is a JWT (RFC 7519, HS256): `sub` the tenant, `role` what it is for, `exp` when it ends, and for links
`session`, or `world` and `at`. Services that share a file of secrets trust each other's tokens: one secret a line, the
first signs and all verify, so that a secret is replaced without anybody being turned away. The file is looked at again
when it changes.

    authority = Authority(Path("secrets"))
    token = authority.sign(Claims("acme", "tenant"), seconds=3600)
    authority.read(token).tenant                    # "acme"; Unauthenticated for a token that is none of ours
    Bearer(secret=Path("secrets")).metadata("acme")   # what a client shows with its calls
"""

from __future__ import annotations

import asyncio
import logging
import math
import re
from collections.abc import Callable, Iterable
from dataclasses import dataclass, field
from pathlib import Path
from time import monotonic, time
from typing import Any, Literal, get_args

import jwt

from worldkv.errors import Forbidden, InvalidConfig, InvalidInput, Unauthenticated

TENANT_KEY = "worldkv-tenant"
TOKEN_KEY = "authorization"
SCHEME = "Bearer "
DEFAULT_TENANT = "default"

Role = Literal["tenant", "operator", "service", "watch", "world"]
"""tenant    walks in the tenant's worlds
operator  also looks after them, and after the service as a whole
service   a part of the service, that speaks for the tenant it names
watch     sees one session, and does nothing
world     opens forks of one world, and walks in what it opened"""

ROLES: tuple[Role, ...] = get_args(Role)
SHARED: tuple[Role, ...] = ("watch", "world")
"""Roles of links that are given away. Whoever serves them looks at each request; all others refuse them."""

ALGORITHM = "HS256"
LEAST_SECRET = 32
"""Characters of a secret: less than the 256 bits of a signature would be what is guessed."""
LONGEST_SECONDS = 10 * 365 * 86_400.0
"""That a token may be good for."""
SERVICE_SECONDS = 600.0
"""That a token is good for which a part signs for itself; it signs the next one at half of it."""
LOOK_SECONDS = 1.0
"""Between two looks whether a file has changed."""
MOST_KNOWN = 4096
"""Tokens that were verified and are known again."""

SESSIONS, HEALTH = "worldkv.v1.Sessions", "grpc.health.v1.Health"
OF_LINKS: dict[str, tuple[Role, ...]] = {"Walk": SHARED, "Look": SHARED, "Open": ("world",), "Close": ("world",)}
"""Calls of `Sessions` that links are for."""
REFLECTION = ("grpc.reflection.v1.ServerReflection", "grpc.reflection.v1alpha.ServerReflection")
OPEN = (f"/{HEALTH}/Check", f"/{HEALTH}/Watch")
"""Calls that need no token: balancers have none."""

_log = logging.getLogger(__name__)
Metadata = tuple[tuple[str, str], ...]


@dataclass(frozen=True)
class AuthConfig:
    """Whether callers have to show a token.

    secret  file of the secrets that tokens are signed with, one a line; None: nobody has to show one
    """

    secret: Path | None = None

    def __bool__(self) -> bool:
        return self.secret is not None

    def authority(self) -> Authority | None:
        """Who reads tokens; None: they are not looked at. Raises InvalidConfig for a file that cannot be used."""
        return None if self.secret is None else Authority(self.secret)


@dataclass(frozen=True)
class Claims:
    """What a caller is and may do.

    tenant   whose worlds
    role     see `Role`
    session  of a link to watch: the session's id for watching
    world    of a link to a world: its name, and
    at       the chunk that it may be opened before; None: anywhere
    expires  seconds since 1970 at which all this ends; None: never, for where no tokens are looked at

    Raises InvalidInput for a role or a tenant that is none, and for a link to nothing.
    """

    tenant: str
    role: Role = "tenant"
    session: str = ""
    world: str = ""
    at: int | None = None
    expires: float | None = None

    def __post_init__(self) -> None:
        tenant_named(self.tenant)
        if self.role not in ROLES:
            raise InvalidInput(f"a role is one of {', '.join(ROLES)}, got {str(self.role)[:80]!r}")
        if (self.role == "watch") != bool(self.session) or (self.role == "world") != bool(self.world):
            raise InvalidInput(f"a token to watch names its session, one to a world its world, got role {self.role!r}")
        if self.at is not None and (self.role != "world" or self.at < 0):
            raise InvalidInput(f"at = {self.at}: only a token to a world names the chunk it is opened before, from 0")

    def speaking_for(self, tenant: str) -> Claims:
        """These for the tenant that a call names, empty for none. Raises Forbidden for somebody else's."""
        if not tenant or tenant == self.tenant:
            return self
        if self.role != "service":
            raise Forbidden(f"this token speaks for tenant {self.tenant}, not for {tenant_named(tenant)}")
        return Claims(tenant, "service", expires=self.expires)

    def check_call(self, method: str) -> None:
        """Raise Forbidden unless its role may make this call, `/package.Service/Method`.

        What people use is open to them; the parts behind it speak with each other and with operators alone.
        """
        service, _, name = method.removeprefix("/").partition("/")
        allowed: tuple[Role, ...] = ("operator", "service")
        if service in (SESSIONS, *REFLECTION):
            allowed = ("tenant", *allowed)
        if service == SESSIONS:
            allowed += OF_LINKS.get(name, ())
        if self.role not in allowed:
            raise Forbidden(f"a token of role {self.role} may not call {service}.{name}")

    def check_open(self, world: str, at: int | None, fork: bool) -> None:
        """Raise Forbidden unless this world, or a fork of it, may be opened before this chunk; None: after its last.

        A link opens forks alone: many may follow it, and the world stays as it is for all of them.
        """
        if self.role == "watch":
            raise Forbidden("this token is for watching: it opens no session")
        if self.role == "world" and not (fork and world == self.world and self.at in (None, at)):
            where = "" if self.at is None else f" at chunk {self.at}"
            raise Forbidden(f"this token opens forks of world {self.world!r}{where}, and nothing else")

    def check_join(self, session: str, watch: bool) -> None:
        """Raise Forbidden unless this session may be joined, to walk in or to watch."""
        if self.role == "watch" and not (watch and session == self.session):
            raise Forbidden("this token is for watching one session, and for nothing else")

    async def end(self) -> None:
        """Wait until what a link opened is to end, for ever where it is no link. Raises Unauthenticated then."""
        await asyncio.sleep(self.left if self.role in SHARED and self.left is not None else math.inf)
        raise Unauthenticated("the token has expired")

    @property
    def left(self) -> float | None:
        """Seconds until it expires, not negative; None if it does not."""
        return None if self.expires is None else max(self.expires - time(), 0.0)


class Authority:
    """Signs tokens, and says what they claim.

    secret  file of secrets; raises InvalidConfig if it cannot be read, holds none, or one that is too short
    """

    def __init__(self, secret: Path) -> None:
        self._secrets = Watched(secret, _secrets_of)
        self._known: dict[str, Claims] = {}
        self._version = 0

    @property
    def version(self) -> int:
        """Rises when the secrets change."""
        return self._secrets.look().version

    def sign(self, claims: Claims, seconds: float) -> str:
        """A token with these claims, good for so long from now. Raises InvalidInput for a time that makes no sense."""
        if not 0 < seconds <= LONGEST_SECONDS:
            raise InvalidInput(f"a token is good for more than 0 and at most {LONGEST_SECONDS:g} s, got {seconds:g}")
        content: dict[str, Any] = {"sub": claims.tenant, "role": claims.role, "exp": math.ceil(time() + seconds)}
        for name in ("session", "world", "at"):
            if getattr(claims, name) not in ("", None):
                content[name] = getattr(claims, name)
        return jwt.encode(content, self._secrets.look().value[0], ALGORITHM)

    def read(self, token: str) -> Claims:
        """What a token claims. Raises Unauthenticated for one that has expired or is none of ours."""
        if not token.isascii():
            raise Unauthenticated("the token is malformed")
        secrets = self._secrets.look()
        if secrets.version != self._version or len(self._known) >= MOST_KNOWN:
            self._version, self._known = secrets.version, {}
        claims = self._known.get(token) or _read(token, secrets.value)
        if claims is None:  # whoever signed it may have seen a new secret before us
            claims = _read(token, self._secrets.look(again=True).value)
        if claims is None:
            raise Unauthenticated("the token was signed by somebody else")
        if claims.left == 0:
            raise Unauthenticated("the token has expired")
        self._known[token] = claims
        return claims

    def caller(self, shown: str, tenant: str) -> Claims:
        """Who calls, by the header that was shown, `Bearer TOKEN`, and the tenant that was named; empty for none.

        Raises Unauthenticated without a good token, Forbidden if the tenant is not the token's.
        """
        scheme, _, token = shown.strip().partition(" ")
        if not token or scheme.lower() != SCHEME.strip().lower():
            raise Unauthenticated("this needs a token: `authorization: Bearer TOKEN`")
        return self.read(token.strip()).speaking_for(tenant)


@dataclass(frozen=True)
class Bearer:
    """What a client shows with its calls; without anything to show only whose calls they are.

    token   a token, or the name of a file that holds one, which is looked at again when it changes
    secret  file of secrets, where there is no token: a part signs its own

    Raises InvalidConfig for a file that cannot be used.
    """

    token: str = field(default="", repr=False)
    secret: Path | None = None
    _shown: Callable[[], str] = field(init=False, repr=False, compare=False)

    def __post_init__(self) -> None:
        object.__setattr__(self, "_shown", _showing(self.token, self.secret))

    def metadata(self, tenant: str = DEFAULT_TENANT) -> Metadata:
        """What goes with a call for this tenant. The default one is not named: it is who is meant where no tokens
        are looked at, and a token names its own."""
        named: Metadata = () if tenant == DEFAULT_TENANT else ((TENANT_KEY, tenant),)
        shown = self._shown()
        return (*named, (TOKEN_KEY, SCHEME + shown)) if shown else named


def is_token(text: str) -> bool:
    """Whether this is a token, and not the name of a file: the JSON that a token begins with is written so."""
    return text.startswith("eyJ")


def tenant_named(name: str) -> str:
    """The name of a tenant. Raises InvalidInput for a name that is none."""
    if not re.fullmatch(r"[a-z0-9][a-z0-9-]{0,62}", name):
        raise InvalidInput(f"a tenant's name has 1 to 63 of a-z, 0-9 and -, got {name[:80]!r}")
    return name


def _read(token: str, secrets: Iterable[str]) -> Claims | None:
    """What a token claims; None if none of these secrets signed it. Raises Unauthenticated for what is no token; what
    it was is not shown: it may have been almost a good one."""
    for secret in secrets:
        try:
            content = jwt.decode(token, secret, [ALGORITHM], {"require": ["sub", "role", "exp"], "verify_exp": False})
        except jwt.InvalidSignatureError:
            continue
        except jwt.InvalidTokenError as error:
            raise Unauthenticated("the token is malformed") from error
        return _claims(content)
    return None


def _claims(content: dict[str, Any]) -> Claims:
    kinds = {"sub": str, "role": str, "session": str, "world": str, "at": int, "exp": int}
    given = {name: content[name] for name in kinds if name in content}
    try:
        if any(type(value) is not kinds[name] for name, value in given.items()):
            raise InvalidInput("a claim has another type than it should")
        tenant, expires = given.pop("sub"), float(given.pop("exp"))
        return Claims(tenant, expires=expires, **given)
    except (InvalidInput, OverflowError) as error:
        raise Unauthenticated(f"the token makes no sense: {error}") from error


def _showing(token: str, secret: Path | None) -> Callable[[], str]:
    """Gives the token to show now; empty for none."""
    if is_token(token):
        return lambda: token
    if token:
        file = Watched(Path(token), _token_of)
        return lambda: file.look().value
    if secret is None:
        return lambda: ""
    return _Signing(Authority(secret)).token


class _Signing:
    """A part's own tokens."""

    def __init__(self, authority: Authority) -> None:
        self._authority, self._until, self._version, self._token = authority, 0.0, 0, ""

    def token(self) -> str:
        if monotonic() > self._until or self._authority.version != self._version:
            self._until, self._version = monotonic() + SERVICE_SECONDS / 2, self._authority.version
            self._token = self._authority.sign(Claims(DEFAULT_TENANT, "service"), SERVICE_SECONDS)
        return self._token


@dataclass(frozen=True)
class _Seen:
    """What a file held when it was read; `version` rises with every change."""

    version: int
    value: Any = field(repr=False)


class Watched:
    """A file that is read again when it changes. One that cannot be read any more counts as it was, and that is logged.

    read  makes of its text what is wanted; raises InvalidConfig

    Raises InvalidConfig if it cannot be read at the begin.
    """

    def __init__(self, file: Path, read: Callable[[Path, str], Any]) -> None:
        self._file, self._read = file, read
        self._stamp = self._looked_at()
        self._looks_at = monotonic() + LOOK_SECONDS
        self._seen = _Seen(1, self._value())

    def look(self, again: bool = False) -> _Seen:
        """What it holds; `again`: now, and not just a moment ago."""
        if again or monotonic() >= self._looks_at:
            self._looks_at = monotonic() + LOOK_SECONDS
            try:
                if (stamp := self._looked_at()) != self._stamp:
                    self._seen = _Seen(self._seen.version + 1, self._value())
                    self._stamp = stamp
            except InvalidConfig as error:
                _log.warning("what was read before is still used: %s", error)
        return self._seen

    def _looked_at(self) -> tuple[int, ...]:
        try:
            found = self._file.stat()
        except OSError as error:
            raise InvalidConfig(f"{self._file} cannot be read: {error.strerror}") from error
        return found.st_mtime_ns, found.st_size, found.st_ino

    def _value(self) -> Any:
        try:
            text = self._file.read_text(encoding="utf-8")
        except OSError as error:
            raise InvalidConfig(f"{self._file} cannot be read: {error.strerror}") from error
        except ValueError as error:
            raise InvalidConfig(f"{self._file} is not text") from error
        return self._read(self._file, text)


def _secrets_of(file: Path, text: str) -> tuple[str, ...]:
    secrets = tuple(line for line in map(str.strip, text.splitlines()) if line and not line.startswith("#"))
    if not secrets:
        raise InvalidConfig(f"{file} holds no secret: expected one a line, the first one signs")
    if (shortest := min(map(len, secrets))) < LEAST_SECRET:
        raise InvalidConfig(f"{file}: a secret has {shortest} characters, expected at least {LEAST_SECRET}")
    return secrets


def _token_of(file: Path, text: str) -> str:
    if not is_token(text.strip()):
        raise InvalidConfig(f"{file} holds no token")
    return text.strip()
