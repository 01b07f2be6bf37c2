"""A certificate for tests and benchmarks."""

from __future__ import annotations

import shutil
import subprocess
from pathlib import Path

from benchmarks.registry import Skipped
from worldkv.rpc import TLS

NAMES = "DNS:localhost,IP:127.0.0.1"


def self_signed(folder: Path) -> TLS:
    """A certificate that signs itself, valid for this host for two days, that either side can show and trust.

    Raises Skipped where there is no openssl program.
    """
    if shutil.which("openssl") is None:
        raise Skipped("certificates are made with openssl, which is not here")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subject = ["-subj", "/CN=localhost", "-addext", f"subjectAltName={NAMES}"]
    kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", "req", *kind, *subject, *files], check=True, capture_output=True)
    return TLS(certificate, key, certificate)
