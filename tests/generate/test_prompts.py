"""Prompts as users of A1111 write them: emphasis, BREAK, and more words than a text encoder takes at once."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st

from vaekit.errors import OptionError
from vaekit.generate.architectures import clip_tokenizer
from vaekit.generate.emphasis import Piece, parse
from vaekit.generate.painter import Painter
from vaekit.generate.prompts import _emphasised, _parts, listen
from vaekit.generate.settings import Settings


@pytest.mark.parametrize(
    ("prompt", "pieces"),
    [
        ("normal text", [("normal text", 1)]),
        ("an (important) word", [("an ", 1), ("important", 1.1), (" word", 1)]),
        ("(unbalanced", [("unbalanced", 1.1)]),
        (r"\(literal\]", [("(literal]", 1)]),
        ("(unnecessary)(parens)", [("unnecessaryparens", 1.1)]),
        ("a ((house:1.3)) [on] (hill: 0.5 )", [("a ", 1), ("house", 1.43), (" ", 1), ("on", 1 / 1.1), (" ", 1)]),
        ("not closed:1.2) here]", [("not closed:1.2) here]", 1)]),
        ("(a:1.2.3)", [("a:1.2.3", 1.1)]),
        ("(a:-1)", [("a", -1)]),
    ],
)
def test_brackets_mean_what_they_mean_to_a1111(prompt: str, pieces: list[tuple[str, float]]) -> None:
    (found,) = parse(prompt)
    assert [piece.text for piece in found][: len(pieces)] == [text for text, _ in pieces]
    assert [piece.weight for piece in found][: len(pieces)] == pytest.approx([weight for _, weight in pieces])


def test_break_begins_a_section_inside_brackets_too() -> None:
    assert parse("a BREAK b") == [[Piece("a")], [Piece("b")]]
    assert parse("(a BREAK b:1.2) c") == [[Piece("a", 1.2)], [Piece("b", 1.2), Piece(" c")]]
    assert parse("BREAKFAST") == [[Piece("BREAKFAST")]]


@given(st.text(alphabet=st.characters(exclude_characters="()[]\\:", exclude_categories=["Cs"])))
def test_escaped_brackets_are_letters_and_other_text_stays(text: str) -> None:
    if "BREAK" in text:
        return
    escaped = rf"\({text}\)\[{text}\]\\"
    assert parse(escaped) == [[Piece(f"({text})[{text}]\\")]]


@given(st.text(alphabet="ab ()[]\\:.1-", max_size=60))
def test_any_brackets_give_finite_weights(text: str) -> None:
    assert all(math.isfinite(piece.weight) for section in parse(text) for piece in section)


def test_brackets_too_deep_are_refused_before_anything_is_loaded() -> None:
    with pytest.raises(OptionError, match="inside one another"):
        Settings("(a" * 5000)


def test_parts_hold_75_tokens_and_are_cut_behind_a_comma_that_is_near() -> None:
    clip = clip_tokenizer("<|endoftext|>")
    plain = _parts(clip, "cat " * 100)
    assert [len(part.tokens) for part in plain] == [77, 77]
    assert plain[0].tokens.count(clip.convert_tokens_to_ids("cat</w>")) == 75
    near = _parts(clip, "cat " * 59 + ", " + "dog " * 40)
    assert near[0].tokens.count(clip.convert_tokens_to_ids("cat</w>")) == 59
    assert clip.convert_tokens_to_ids("dog</w>") not in near[0].tokens
    far = _parts(clip, "cat " * 40 + ", " + "dog " * 60)
    assert far[0].tokens.count(clip.convert_tokens_to_ids("dog</w>")) == 34
    assert len(_parts(clip, "a BREAK b")) == len(_parts(clip, "a BREAK b BREAK")) == 2
    assert len(_parts(clip, "")) == 1


def test_weights_stand_at_the_tokens_of_their_words() -> None:
    clip = clip_tokenizer("!")
    (part,) = _parts(clip, "a (red apple:1.4), [fast]")
    assert part.weights[:7] == pytest.approx([1, 1, 1.4, 1.4, 1, 1 / 1.1, 1])
    assert set(part.weights[7:]) == {1.0} and len(part.weights) == len(part.tokens) == 77


def test_emphasis_multiplies_and_restores_the_mean_of_each_part() -> None:
    state = torch.randn(2, 5, 8, generator=torch.Generator().manual_seed(0)) + 0.3
    weights = torch.ones(2, 5)
    weights[0, 2] = 1.5
    found = _emphasised(state, weights)
    expected = state[0].clone()
    expected[2] *= 1.5
    expected *= state[0].mean() / expected.mean()
    assert torch.allclose(found[0], expected) and torch.equal(found[1], state[1])
    assert found[0].mean().item() == pytest.approx(state[0].mean().item())
    assert torch.equal(_emphasised(state, torch.ones(2, 5)), state)
    assert torch.isfinite(_emphasised(state - state.mean((1, 2), keepdim=True), weights)).all()


def test_emphasis_changes_what_the_unet_is_told_and_weight_1_does_not(painter: Painter) -> None:
    told = {prompt: listen(painter.model, prompt, "")[0].states for prompt in ("a red apple", "a (red:1.5) apple")}
    plain, stronger = told.values()
    assert plain.shape == stronger.shape and not torch.equal(plain, stronger)
    assert torch.equal(listen(painter.model, "(a red apple:1)", "")[0].states, plain)
    assert torch.equal(listen(painter.model, "a red apple BREAK", "")[0].states, plain)
    assert listen(painter.model, "a red BREAK apple", "")[0].states.shape[1] == 2 * plain.shape[1]


def test_the_mean_is_restored_where_there_is_one() -> None:
    states = torch.randn(2, 77, 8, generator=torch.manual_seed(0))
    weights = torch.ones(2, 77)
    weights[:, 5] = 1.5
    shifted = _emphasised(states + 0.3, weights)
    torch.testing.assert_close(shifted.mean((1, 2)), (states + 0.3).mean((1, 2)))
    assert not torch.equal(shifted, states + 0.3)
    centred = states - states.mean((1, 2), keepdim=True)
    torch.testing.assert_close(_emphasised(centred, weights), centred * weights[..., None])


def test_a_picture_tells_the_prompt_as_it_was_written(painter: Painter) -> None:
    from vaekit.generate import infotext

    settings = Settings(r"a (red:1.5) apple, \(round\)" + "\nBREAK\n[flat]", "(blurred)", steps=1, seed=1)
    (drawn,) = painter.txt2img(settings)
    read = infotext.parse(str(drawn.text))
    assert (read.prompt, read.negative) == (settings.prompt, settings.negative)
    (other,) = painter.txt2img(replace(settings, prompt=settings.prompt.replace("1.5", "0.5")))
    assert not torch.equal(drawn.latents.tensor, other.latents.tensor)


@pytest.mark.parametrize("prompt", ["[cat:dog:0.5]", "[cat|dog]", "a cat AND a dog", "a cat <lora:cats:0.8>"])
def test_what_a1111_reads_and_vaekit_does_not_is_told(
    painter: Painter, prompt: str, caplog: pytest.LogCaptureFixture
) -> None:
    listen(painter.model, prompt, "")
    assert "taken as words" in caplog.text
    caplog.clear()
    listen(painter.model, r"[cat], (dog:1.2), \[a|b\], 10:30, ANDROID", "")
    assert "taken as words" not in caplog.text
