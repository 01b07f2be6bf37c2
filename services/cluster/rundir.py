"""The run directory: what is kept while the service is up, and how a second `up` finds it. No Ray here."""

from __future__ import annotations

import fcntl
import json
import os
import shutil
import tempfile
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path

from services.cluster.roster import KINDS, membership_file, replace_file, supervisor_file
from worldkv.auth import Bearer
from worldkv.errors import AlreadyExists, InvalidConfig, Unavailable
from worldkv.rpc import TLS
from worldkv.shared import remove_stale

MAX_SOCKET_BYTES = 107
"""Of the path of a unix socket; longer ones cannot be bound."""
RAY_SOCKET_BYTES = len("/session_2026-01-01_00-00-00_000000_0000000/sockets/plasma_store.12")
"""That Ray's socket paths have beyond the folder it is given."""
RAY_IS_LATE = os.EX_TEMPFAIL
"""Exit code of the process that keeps a service up, if Ray did not start in its own time: another try may help."""


@dataclass(frozen=True)
class Up:
    """A service that is up.

    fleet    host:port of its supervisor
    ray      address of the Ray cluster
    pid      of the process that keeps Ray running; 0: Ray is not ours
    folder   that Ray writes to; empty: Ray is not ours
    shared   begins of names of shared memory, that a service which is killed leaves behind
    gateway  host:port of every gateway's gRPC
    web      host:port of every gateway's web face
    client   what its clients need: files of certificates and of secrets, and the name that certificates are for
    """

    fleet: str
    ray: str
    pid: int = 0
    folder: str = ""
    shared: tuple[str, ...] = ()
    gateway: tuple[str, ...] = ()
    web: tuple[str, ...] = ()
    client: Mapping[str, str] = field(default_factory=dict)

    @property
    def tls(self) -> TLS:
        """Of a channel to it."""
        files = {name: Path(self.client[name]) for name in ("certificate", "key", "authority") if name in self.client}
        return TLS(**files, name=self.client.get("name", ""))

    @property
    def bearer(self) -> Bearer:
        """What is shown to it, by whoever may read its secrets."""
        return Bearer(secret=Path(self.client["secret"]) if "secret" in self.client else None)


class RunDir:
    """A run directory; made when something is first written to it.

    path  $WORLDKV_RUN_DIR, else $XDG_RUNTIME_DIR/worldkv, else /tmp/worldkv-UID; nothing is in the home directory
    """

    def __init__(self, path: Path) -> None:
        self.path = path.absolute()

    @classmethod
    def of(cls, environment: Mapping[str, str]) -> RunDir:
        if given := environment.get("WORLDKV_RUN_DIR"):
            return cls(Path(given))
        if runtime := environment.get("XDG_RUNTIME_DIR"):
            return cls(Path(runtime) / "worldkv")
        return cls(Path(tempfile.gettempdir()) / f"worldkv-{os.getuid()}")

    @property
    def up_file(self) -> Path:
        """Says where the service is, as long as it is up."""
        return self.path / "up.json"

    @property
    def logs(self) -> Path:
        """Folder of the logs of all parts."""
        return self.path / "logs"

    @property
    def log(self) -> Path:
        """What the process that keeps Ray running says."""
        return self.logs / "up.log"

    def make(self) -> None:
        """Make the directory, for nobody but this user. Raises InvalidConfig if it is, or would be, somebody else's."""
        try:
            self.path.mkdir(mode=0o700, parents=True, exist_ok=True)
            self.logs.mkdir(mode=0o700, exist_ok=True)
            owner = self.path.stat().st_uid
        except OSError as error:
            raise InvalidConfig(f"run directory {self.path}: {error.strerror}; set WORLDKV_RUN_DIR") from error
        if owner != os.getuid():
            raise InvalidConfig(f"run directory {self.path} belongs to user {owner}; set WORLDKV_RUN_DIR")

    def read(self) -> Up | None:
        """Where the service is; None if there is none. A service that was killed is still told: see `locked`."""
        try:
            values = json.loads(self.up_file.read_text(encoding="utf-8"))
        except OSError:
            return None
        except ValueError as error:
            raise InvalidConfig(f"{self.up_file} is not JSON: {error}") from error
        if not isinstance(values, dict) or set(values) != {each.name for each in fields(Up)}:
            raise InvalidConfig(f"{self.up_file} was written by another version: remove it if nothing runs")
        return Up(**{**values, **{name: tuple(values[name]) for name in ("shared", "gateway", "web")}})

    def write(self, up: Up) -> None:
        """Say where the service is."""
        replace_file(self.up_file, json.dumps(asdict(up), indent=1) + "\n")

    def lock(self) -> int:
        """Have the directory for this process until it ends; AlreadyExists if another one has it."""
        fd = os.open(self.path / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        try:
            fcntl.flock(fd, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError as error:
            os.close(fd)
            raise AlreadyExists(f"WorldKV is up already in {self.path}: `worldkv down` ends it") from error
        return fd

    @property
    def locked(self) -> bool:
        """Whether a process has the directory."""
        try:
            os.close(self.lock())
        except AlreadyExists:
            return True
        except FileNotFoundError:
            return False
        return False

    def ray_folder(self) -> Path:
        """A new folder for Ray, short enough for its sockets."""
        inside = self.path / "ray"
        if len(os.fsencode(inside)) + RAY_SOCKET_BYTES <= MAX_SOCKET_BYTES:
            shutil.rmtree(inside, ignore_errors=True)
            inside.mkdir(mode=0o700)
            return inside
        made = Path(tempfile.mkdtemp(prefix="wkv-ray-"))
        if len(os.fsencode(made)) + RAY_SOCKET_BYTES > MAX_SOCKET_BYTES:
            made.rmdir()
            raise Unavailable(f"{made} is too long for the sockets of Ray: set TMPDIR to a shorter one")
        return made

    def clean(self, up: Up) -> None:
        """Remove what a service that has ended, or was killed, leaves behind; its logs stay."""
        for prefix in up.shared:
            remove_stale(prefix)
        if up.folder:
            shutil.rmtree(up.folder, ignore_errors=True)
        shutil.rmtree(self.path / "parts", ignore_errors=True)
        for file in (self.up_file, supervisor_file(self.path), *(membership_file(self.path, kind) for kind in KINDS)):
            file.unlink(missing_ok=True)
