"""Published models, tiny, in generators as processes."""

import pytest

from benchmarks.model_tiny import settings_of, walked
from benchmarks.wan_tiny import write
from benchmarks.wan_vae_small import FILE as VAE_FILE
from services.generator.processes import service
from worldkv.errors import Unavailable

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


@pytest.mark.parametrize("name", ["matrix-game-2.0-universal", "lingbot-world-v2-1.3b"])
def test_a_published_folder_is_walked_in_suspended_and_resumed_elsewhere(name, tmp_path):
    seen = walked(name, tmp_path)
    assert seen.resumed == 0
    assert seen.elsewhere > 1e-3


def test_a_generator_says_what_its_folder_lacks(tmp_path):
    (write("self-forcing", tmp_path) / VAE_FILE).unlink()
    with pytest.raises(Unavailable, match="no VAE"):
        with service(settings_of("self-forcing", tmp_path), shards=1, gateways=0):
            raise AssertionError("it serves")
