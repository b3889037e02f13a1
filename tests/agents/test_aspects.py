from __future__ import annotations

from dataclasses import replace

import numpy as np
import pytest
from concertrl.agents.aspects import SNIPPET, Spoken, aspects, snippets, spoken
from concertrl.agents.reviews import sentences
from concertrl.platform.encoder import Encoder
from concertrl.platform.logs import Logs
from concertrl.platform.settings import EncoderSettings, SentimentSettings

ITEMS, EACH = 6, 24
GOOD, BAD = ("great", "excellent", "wonderful"), ("awful", "terrible", "useless")


@pytest.fixture(scope="module")
def encoder(tmp_path_factory: pytest.TempPathFactory) -> Encoder:
    return Encoder(EncoderSettings(cache=str(tmp_path_factory.mktemp("cache"))))


def make() -> Logs:
    """Even items sound well, the first three are cheap; the writers' stars follow both."""
    rows = np.arange(ITEMS * EACH)
    items = rows % ITEMS
    sounds, cheap = items % 2 == 0, items < 3
    reviews = tuple(
        f"I bought it. The {('sound', 'tone')[row % 2]} is {(GOOD if well else BAD)[row % 3]}. "
        f"The {('price', 'cost')[row // 2 % 2]} was {(GOOD if low else BAD)[row // 3 % 3]}!"
        for row, well, low in zip(rows.tolist(), sounds.tolist(), cheap.tolist(), strict=True)
    )
    stars = 1.0 + 2 * sounds + 2 * cheap
    return Logs(
        user_ids=tuple(map(str, rows)),
        item_ids=tuple(map(str, range(ITEMS + 1))),
        item_titles=("",) * (ITEMS + 1),
        item_texts=("",) * (ITEMS + 1),
        item_attributes=((),) * (ITEMS + 1),
        users=rows,
        items=items,
        timestamps=rows,
        ratings=stars.astype(np.float32),
        clicks=np.ones(len(rows), np.float32),
        reviews=reviews,
    )


@pytest.fixture(scope="module")
def said() -> Spoken:
    return spoken(make(), SentimentSettings())


def test_sentences_end_where_they_end() -> None:
    found = sentences(["Nice. Works well!  Really?\nA 2.5 mm plug", "", "It is here.It plays"])
    assert found.texts == ("Nice.", "Works well!", "Really?", "A 2.5 mm plug", "It is here.", "It plays")
    assert found.rows.tolist() == [0, 0, 0, 0, 2, 2]


def test_sentences_are_judged_one_by_one(said: Spoken) -> None:
    assert len(said.texts) == 3 * ITEMS * EACH and said.num_items == ITEMS + 1
    good = np.array([any(word in text for word in GOOD) for text in said.texts])
    bad = np.array([any(word in text for word in BAD) for text in said.texts])
    assert said.polarity[good].min() > said.polarity[~good & ~bad].max() >= said.polarity[bad].max()


def test_the_planted_aspects_are_found_with_their_polarity(said: Spoken, encoder: Encoder) -> None:
    found = aspects(said, SentimentSettings(), encoder)
    assert {frozenset(words) for words in found.terms} == {frozenset({"sound", "tone"}), frozenset({"price", "cost"})}
    assert set(found.names) == {", ".join(words) for words in found.terms}
    sound = next(place for place, words in enumerate(found.terms) if "tone" in words)
    well, cheap = found.polarity[:ITEMS, sound], found.polarity[:ITEMS, 1 - sound]
    assert well[::2].min() > well[1::2].max() + 0.3 and cheap[:3].min() > cheap[3:].max() + 0.3
    assert (found.counts[:ITEMS] == EACH).all() and (found.counts[ITEMS] == 0).all()
    assert (found.deviation[ITEMS] > 1.5 * found.deviation[:ITEMS].max(0)).all()


def test_an_item_is_told_in_words(said: Spoken, encoder: Encoder) -> None:
    found = aspects(said, SentimentSettings(), encoder)
    words = found.words(0)
    assert len(words) == 2 and all("+- 0." in line and "in 24 sentences" in line for line in words)
    assert found.words(ITEMS) == []


def test_at_most_so_many_aspects_and_none_of_little(said: Spoken, encoder: Encoder) -> None:
    assert len(aspects(said, SentimentSettings(aspects=1), encoder).names) == 1
    few = Spoken(said.texts[:9], said.items[:9], said.polarity[:9], said.stars[:9], said.num_items)
    for nothing in (aspects(said, SentimentSettings(aspects=0), encoder), aspects(few, SentimentSettings(), encoder)):
        assert nothing.names == () and nothing.polarity.shape == (ITEMS + 1, 0) and nothing.words(0) == []


def test_snippets_praise_and_blame(said: Spoken) -> None:
    found = snippets(said)
    assert len(found) == ITEMS + 1 and found[ITEMS].praise == found[ITEMS].blame == ""
    assert any(word in found[0].praise for word in GOOD) and found[0].blame == ""  # both of item 0 are good
    assert any(word in found[1].praise for word in GOOD) and any(word in found[1].blame for word in BAD)
    assert found[5].praise == "" and any(word in found[5].blame for word in BAD)


def test_a_snippet_is_neither_long_nor_a_word_and_its_review_agrees() -> None:
    least, most = SNIPPET
    texts = ("x" * (least - 1), "a" * least, "y" * (most + 1), "b" * most, "c" * 50)
    said = Spoken(
        texts, np.zeros(5, np.int64), np.array([1, 0.5, 1, 0.6, 0.6]), np.array([5, 5, 5, 1, np.nan], np.float32), 1
    )
    assert snippets(said)[0].praise == "a" * least
    assert snippets(replace(said, polarity=np.full(5, 0.1)))[0].praise == ""


def test_without_a_head_the_stars_speak() -> None:
    logs = make()
    few = spoken(replace(logs, ratings=np.full(len(logs), 5, np.float32)), SentimentSettings())
    assert (few.polarity == 1).all()
    unrated = spoken(replace(logs, ratings=np.full(len(logs), np.nan, np.float32)), SentimentSettings())
    assert (unrated.polarity == 0).all()


def test_no_reviews_at_all(encoder: Encoder) -> None:
    logs = make()
    silent = spoken(replace(logs, reviews=("",) * len(logs)), SentimentSettings())
    assert aspects(silent, SentimentSettings(), encoder).names == ()
    assert {(each.praise, each.blame) for each in snippets(silent)} == {("", "")}
