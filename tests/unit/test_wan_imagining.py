"""From words and a picture to a prompt, through tiny encoders and a tiny VAE."""

from dataclasses import replace
from pathlib import Path

import pytest
import torch

from benchmarks.wan_encoders_small import image_weights, text_weights, write_tokenizer
from benchmarks.wan_small import random_model, small
from benchmarks.wan_vae_small import random_vae
from services.generator.adapters.wan.adapter import WanWorldModel
from services.generator.adapters.wan.encoders import imagining
from services.generator.adapters.wan.encoders.image import ImageEncoder, load_image
from services.generator.adapters.wan.encoders.imagining import LEAST, LONG, MOST, SETTLED, Imagination
from services.generator.adapters.wan.encoders.pictures import GREY, opened, plain
from services.generator.adapters.wan.encoders.text import TextEncoder, load_text
from services.generator.adapters.wan.prompts import Imagine, Prompt
from services.generator.adapters.wan.vae import WanVAE
from services.generator.adapters.wan.variants import LINGBOT_CAM, MATRIX_UNIVERSAL, SELF_FORCING, Variant
from services.generator.world_model import Subject
from tests.unit.test_wan_pictures import colours, file
from worldkv.errors import InvalidConfig, InvalidInput

GRID = (4, 6)
WIDTH, TOKENS = 32, 10
PICTURE = file(colours())


@pytest.fixture(scope="module")
def vae():
    return random_vae(4)[0]


@pytest.fixture(scope="module")
def encoders(tmp_path_factory: pytest.TempPathFactory) -> tuple[TextEncoder, ImageEncoder]:
    folder: Path = tmp_path_factory.mktemp("encoders")
    torch.save(text_weights(WIDTH), folder / "t5.pth")
    torch.save(image_weights(WIDTH, TOKENS), folder / "clip.pth")
    write_tokenizer(folder)
    return load_text(folder / "t5.pth", folder, torch.float32), load_image(folder / "clip.pth")


def tiny(variant: Variant) -> Variant:
    backbone = small(variant.backbone)
    return replace(variant, backbone=replace(backbone, context=replace(backbone.context, width=WIDTH, tokens=TOKENS)))


def imagination(variant: Variant, vae, encoders, beside: bool = False) -> Imagination:
    text, image = encoders
    return Imagination(tiny(variant), GRID, vae, text, image, beside)


@pytest.mark.parametrize("published", [SELF_FORCING, LINGBOT_CAM, MATRIX_UNIVERSAL])
def test_a_model_hears_what_its_world_is_about(published, vae, encoders):
    variant, made = tiny(published), imagination(published, vae, encoders)
    subject = Subject("a harbour at dawn" if made.text else "", PICTURE if variant.backbone.given_channels else b"")
    adapter = WanWorldModel(variant, random_model(variant.backbone), made, vae, "0" * 32, GRID)
    state, other = adapter.start(subject), adapter.start(Subject())
    assert not state.heard.prompt.same(other.heard.prompt)
    assert adapter.start(subject).heard is state.heard


def test_words_are_filled_up_with_zeros(vae, encoders):
    tokens = imagination(SELF_FORCING, vae, encoders)(Subject("a harbour"))().tokens
    assert torch.equal(tokens[:3], encoders[0]("a harbour"))
    assert not tokens[3:].any()
    assert tokens.shape == (TOKENS, WIDTH)


def test_a_model_that_is_told_by_a_picture_sees_the_middle_of_it(vae, encoders):
    prompt, seen = imagination(MATRIX_UNIVERSAL, vae, encoders)(Subject(picture=PICTURE))(), opened(PICTURE, 32, 48)
    assert prompt.given is not None
    assert torch.equal(prompt.tokens, encoders[1](seen))
    assert torch.allclose(prompt.given[0], vae.encode(seen[None])[0], atol=1e-4)


def test_without_a_picture_a_world_begins_in_a_plain(vae, encoders):
    prompt = imagination(LINGBOT_CAM, vae, encoders)(Subject("a harbour"))()
    assert prompt.given is not None
    assert torch.allclose(prompt.given[0], vae.encode(plain(32, 48)[None])[0], atol=1e-4)


@pytest.mark.slow
@pytest.mark.parametrize("seed", range(2))
def test_after_the_last_latent_that_is_given_nothing_changes_any_more(seed, encoders):
    vae = random_vae(4, seed)[0]
    given = imagination(LINGBOT_CAM, vae, encoders)(Subject("", PICTURE))().given
    assert given is not None
    assert LEAST <= len(given) <= MOST
    grey = torch.full((4 * 39, 3, 32, 48), GREY)
    whole = vae.encode(torch.cat([opened(PICTURE, 32, 48)[None], grey]))
    held = torch.cat([given, given[-1:].expand(40 - len(given), -1, -1, -1)])
    assert (held - whole).abs().max() <= (4 * SETTLED if len(given) < MOST else 1e-5)


@pytest.mark.parametrize(
    ("variant", "subject", "words"),
    [
        (SELF_FORCING, Subject("a " * TOKENS), f"at most {TOKENS} tokens, got {TOKENS + 1}: 'a a"),
        (SELF_FORCING, Subject("a", PICTURE), "words alone, got a picture of"),
        (LINGBOT_CAM, Subject("a harbour", PICTURE[:50]), "no whole"),
        (LINGBOT_CAM, Subject("a " * TOKENS, PICTURE), "tokens"),
        (MATRIX_UNIVERSAL, Subject("a harbour"), "by a picture, not in words, got 'a harbour'"),
        (MATRIX_UNIVERSAL, Subject("", b"no picture"), "no whole"),
    ],
)
def test_what_a_model_cannot_be_told_is_refused_before_anything_is_encoded(
    variant, subject, words, vae, encoders, monkeypatch
):
    nothing_is_encoded(monkeypatch)
    made = imagination(variant, vae, encoders)
    with pytest.raises(InvalidInput, match=words):
        made(subject)


def nothing_is_encoded(monkeypatch: pytest.MonkeyPatch, *others: tuple[type, str]) -> None:
    """From now on; nor are these called."""

    def fail(*_: object) -> None:
        raise AssertionError("something was encoded")

    for kind, name in others or ((TextEncoder, "__call__"), (ImageEncoder, "__call__"), (WanVAE, "_encode")):
        monkeypatch.setattr(kind, name, fail)


@pytest.mark.parametrize("variant", [SELF_FORCING, LINGBOT_CAM, MATRIX_UNIVERSAL])
def test_what_needs_no_model_is_done_first_and_nothing_else(variant, vae, encoders, monkeypatch):
    words = "" if variant is MATRIX_UNIVERSAL else "a harbour"
    subject = Subject(words, b"" if variant is SELF_FORCING else PICTURE)
    with monkeypatch.context() as patch:
        nothing_is_encoded(patch)
        rest = imagination(variant, vae, encoders)(subject)
        with pytest.raises(AssertionError, match="encoded"):
            rest()
    monkeypatch.setattr(imagining, "opened", None)
    assert isinstance(rest(), Prompt)


@pytest.mark.parametrize("variant", [SELF_FORCING, LINGBOT_CAM, MATRIX_UNIVERSAL])
def test_encoders_on_a_device_of_their_own_are_not_waited_for_by_the_model(variant, vae, encoders, monkeypatch):
    words = "" if variant is MATRIX_UNIVERSAL else "a harbour"
    subject = Subject(words, b"" if variant is SELF_FORCING else PICTURE)
    wanted = imagination(variant, vae, encoders)(subject)()
    rest = imagination(variant, vae, encoders, beside=True)(subject)
    nothing_is_encoded(monkeypatch, (TextEncoder, "__call__"), (ImageEncoder, "__call__"))
    assert rest().same(wanted)


def test_words_without_end_are_refused_uncounted(vae, encoders, monkeypatch):
    made = imagination(SELF_FORCING, vae, encoders)
    most = "a" + " " * (LONG * TOKENS - 1)
    assert torch.equal(made(Subject(most))().tokens, made(Subject("a"))().tokens)
    monkeypatch.setattr(TextEncoder, "count", lambda *_: pytest.fail("they were counted"))
    with pytest.raises(InvalidInput, match=f"at most {LONG * TOKENS} characters, got {LONG * TOKENS + 1}"):
        made(Subject(most + " "))


def test_encoders_are_those_that_the_model_was_made_with(vae, encoders):
    text, image = encoders
    told, shown = tiny(LINGBOT_CAM), tiny(MATRIX_UNIVERSAL)
    wide = replace(told, backbone=replace(told.backbone, context=replace(told.backbone.context, width=16)))
    more = replace(shown, backbone=replace(shown.backbone, context=replace(shown.backbone.context, tokens=17)))
    for variant, one, other, words in (
        (told, None, image, "prompt's text"),
        (shown, text, None, "prompt's image"),
        (wide, text, image, "16 channels, the encoder gives 32"),
        (more, text, image, "17 tokens, the encoder gives 10"),
    ):
        with pytest.raises(InvalidConfig, match=words):
            Imagination(variant, GRID, vae, one, other)


def test_what_is_not_used_is_not_asked_for(vae, encoders):
    made: Imagine = Imagination(tiny(SELF_FORCING), GRID, vae, encoders[0])
    assert made(Subject("a desert"))().given is None
