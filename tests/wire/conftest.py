"""What tests of the wire share: a certificate."""

import shutil
import subprocess

import pytest

from worldkv import rpc


@pytest.fixture(scope="session")
def tls(tmp_path_factory) -> rpc.TLS:
    """A certificate that signs itself, valid for localhost, that either side can show and trust."""
    if shutil.which("openssl") is None:
        pytest.skip("makes its certificates with openssl, which is not here")
    folder = tmp_path_factory.mktemp("tls")
    key, certificate = folder / "key.pem", folder / "certificate.pem"
    subject = ["-subj", "/CN=localhost", "-addext", "subjectAltName=DNS:localhost"]
    kind = ["-x509", "-newkey", "ec", "-pkeyopt", "ec_paramgen_curve:prime256v1", "-nodes", "-days", "2"]
    files = ["-keyout", str(key), "-out", str(certificate)]
    subprocess.run(["openssl", "req", *kind, *subject, *files], check=True, capture_output=True)
    return rpc.TLS(certificate, key, certificate)
