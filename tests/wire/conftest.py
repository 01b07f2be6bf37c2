"""What tests of the wire share: a certificate."""

import pytest

from benchmarks.certificates import self_signed
from benchmarks.registry import Skipped
from worldkv import rpc


@pytest.fixture(scope="session")
def tls(tmp_path_factory) -> rpc.TLS:
    """A certificate that signs itself, valid for localhost, that either side can show and trust."""
    try:
        return self_signed(tmp_path_factory.mktemp("tls"))
    except Skipped as why:
        pytest.skip(str(why))
