"""How the parts of a service prove who they are, and who may come in: told once, for all of them."""

from __future__ import annotations

from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Literal

from worldkv.auth import AuthConfig
from worldkv.errors import InvalidConfig
from worldkv.rpc import TLS
from worldkv.service import is_loopback

Whom = Literal["this-host", "anyone"]


@dataclass(frozen=True)
class SecurityConfig:
    """Security of all parts and of the supervisor, where the settings of a kind say nothing of their own.

    certificate, key  PEM files that every server proves itself with; the same paths on every node
    authority    PEM file: who signed the certificate
    name         that the certificate is for, if it is not for each part's address
    mutual       whether servers take calls only from those who show a certificate that `authority` signed, parts as
                 well as people; browsers never need one
    secret       file of the secrets that tokens are signed with: everybody has to show one, see `worldkv.auth`
    metrics_for  who may reach the pages of metrics, which ask for no token: this-host, or anyone who can reach parts
    admin_for    who may reach a supervisor that asks for no token, the same

    Raises InvalidConfig if certificate, key and authority are not given together.
    """

    certificate: Path | None = None
    key: Path | None = None
    authority: Path | None = None
    name: str = ""
    mutual: bool = False
    secret: Path | None = None
    metrics_for: Whom = "this-host"
    admin_for: Whom = "this-host"

    def __post_init__(self) -> None:
        files = self.certificate, self.key, self.authority
        if None in files and files != (None, None, None):
            words = " and ".join(
                f"security.{name} ({getattr(self, name)})" for name in ("certificate", "key", "authority")
            )
            raise InvalidConfig(f"{words} go together: parts show the first two, and trust the third")
        if self.mutual and self.authority is None:
            raise InvalidConfig("security.mutual needs security.certificate, security.key and security.authority")

    @property
    def auth(self) -> AuthConfig:
        """Of every server."""
        return AuthConfig(self.secret)

    @property
    def server(self) -> TLS:
        """Of every gRPC server."""
        return TLS(self.certificate, self.key, self.authority if self.mutual else None)

    @property
    def web(self) -> TLS:
        """Of what browsers speak to."""
        return TLS(self.certificate, self.key)

    @property
    def client(self) -> TLS:
        """Of every channel between parts."""
        own = (self.certificate, self.key) if self.mutual else (None, None)
        return TLS(*own, self.authority, self.name if self.authority else "")

    def shown(self) -> dict[str, str]:
        """What clients of the service need: names of files, and the name that certificates are for."""
        tls = self.client
        known = {**{name: getattr(tls, name) for name in ("certificate", "key", "authority", "name")}}
        return {name: str(value) for name, value in {**known, "secret": self.secret}.items() if value}

    def absolute(self) -> SecurityConfig:
        """The same with paths that hold in every working directory."""
        files = ("certificate", "key", "authority", "secret")
        given: dict[str, Any] = {name: file.absolute() for name in files if (file := getattr(self, name))}
        return replace(self, **given)

    def check_admin(self, address: str) -> None:
        """Raise InvalidConfig if a supervisor on this `host:port` could be told what to do by anyone."""
        if self.secret is None and self.admin_for == "this-host" and not is_loopback(address):
            raise InvalidConfig(
                f"the supervisor on {address} could be told to stop by other machines, without a token: "
                "set security.secret, or security.admin_for = 'anyone'"
            )
