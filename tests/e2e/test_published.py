"""Published models, tiny, in generators as processes."""

import pytest

from benchmarks.model_tiny import settings_of, walked
from benchmarks.wan_tiny import write
from benchmarks.wan_vae_small import FILE as VAE_FILE
from services.generator.processes import Process
from worldkv.errors import Unavailable

pytestmark = [pytest.mark.slow, pytest.mark.timeout(300)]


def test_a_published_folder_is_walked_in_suspended_and_resumed_elsewhere(tmp_path):
    seen = walked("matrix-game-2.0-universal", tmp_path)  # `worldkv bench model.tiny`: all of them
    assert seen.resumed == 0
    assert seen.elsewhere > 1e-3


def test_a_generator_says_what_its_folder_lacks(tmp_path):
    (write("self-forcing", tmp_path) / VAE_FILE).unlink()
    with Process("generator", settings_of("self-forcing", tmp_path)) as made:
        with pytest.raises(Unavailable, match="no VAE"):
            made.address()
