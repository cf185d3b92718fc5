"""The text of a token: long, random, and told apart from a typing error."""

import re

import pytest

from taskruns.services.tokens.secret import HINT, checksum, digest_of, is_well_formed, new_secret


def test_a_new_token_has_its_prefix_and_a_right_checksum():
    made = {new_secret() for _ in range(200)}
    assert len(made) == 200
    assert all(re.fullmatch(r"tr_[0-9A-Za-z]{36}", secret) for secret in made)
    assert all(map(is_well_formed, made))


def test_a_token_has_at_least_160_random_bits():
    assert 62**30 > 2**160


def test_the_checksum_is_that_of_the_documentation():
    """CRC-32 of the 30 characters, in base 62 with 0-9, A-Z, a-z. Scanners count on it."""
    # CRC-32 of "123456789" is CBF43926, its published check value.
    assert checksum("123456789") == "3jZRME"
    assert checksum("0" * 30) == "2C8GjS"


@pytest.mark.parametrize("place", [3, 10, 32, 33, 38])
def test_one_wrong_character_is_detected(place: int):
    secret = new_secret()
    other = "a" if secret[place] != "a" else "b"
    assert not is_well_formed(secret[:place] + other + secret[place + 1 :])


@pytest.mark.parametrize("text", ["", "tr_", "ak-" + "a" * 36, "tr_" + "a" * 35, "tr_" + "é" * 36, "tr_\x00", "\ud800"])
def test_other_text_is_no_token(text: str):
    assert not is_well_formed(text)
    assert len(digest_of(text)) == 64


def test_its_hint_is_only_a_part_of_the_checksum():
    """So that what is shown of a token says nothing about its random part that the digest would not."""
    assert HINT < 6
