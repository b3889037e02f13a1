"""What the built-in world's items say of themselves and what its users write of them.

A description names the item's topic and its mood; a review praises or blames aspects as its writer's rating has it. The
words are chosen by index, so that the same numbers always give the same text.
"""

from __future__ import annotations

from collections.abc import Sequence

TOPICS: dict[str, tuple[str, ...]] = {
    "space voyages": ("starship", "a distant moon", "the crew", "zero gravity", "an alien signal"),
    "heists": ("a vault", "the getaway car", "safe crackers", "a museum", "the double cross"),
    "courtroom drama": ("a young lawyer", "the jury", "a closing argument", "the witness", "a verdict"),
    "haunted houses": ("an old mansion", "ghosts", "footsteps at night", "a cursed mirror", "the attic"),
    "cooking": ("a restaurant kitchen", "the head chef", "fresh pasta", "street food", "a secret recipe"),
    "football": ("the penalty kick", "a small club", "the coach", "a cup final", "the dressing room"),
    "jazz": ("a trumpet player", "late night clubs", "improvisation", "a quartet", "old records"),
    "mountaineering": ("a frozen summit", "the base camp", "ropes and ice", "an avalanche", "thin air"),
    "medieval kings": ("a castle", "the crown", "knights", "a siege", "the royal court"),
    "detectives": ("a missing person", "clues", "the inspector", "a locked room", "the suspect"),
    "romance": ("a chance meeting", "letters", "first love", "a wedding", "two strangers"),
    "wildlife": ("a wolf pack", "the savannah", "migration", "a coral reef", "young elephants"),
    "hacking": ("a computer network", "stolen passwords", "code", "a cyber attack", "anonymous servers"),
    "family comedy": ("three generations", "a road trip", "noisy cousins", "a birthday party", "the in-laws"),
    "war": ("the trenches", "a platoon", "the front line", "soldiers", "a ceasefire"),
    "westerns": ("a dusty town", "the sheriff", "outlaws", "a duel at noon", "the railroad"),
    "medicine": ("an emergency room", "surgeons", "a rare disease", "the night shift", "a transplant"),
    "politics": ("an election", "the senator", "a scandal", "parliament", "a campaign"),
    "dance": ("a ballet school", "the choreographer", "rehearsals", "a street crew", "opening night"),
    "sailing": ("a storm at sea", "the skipper", "an ocean race", "a wooden boat", "the lighthouse"),
}
"""Topics and things their items are about."""

MOODS: tuple[tuple[str, str], ...] = (
    ("dark and brooding", "light and cheerful"),
    ("slow and thoughtful", "fast and breathless"),
    ("set long ago", "set in the present day"),
    ("for young viewers", "strictly for adults"),
)
"""Both ends of each mood that a description can name."""

ASPECTS: dict[str, tuple[tuple[str, ...], tuple[str, ...]]] = {
    "story": (
        ("the story is gripping", "a clever and moving plot", "beautifully told"),
        ("the story is dull", "a plot full of holes", "it drags on and on"),
    ),
    "acting": (
        ("superb acting", "every performance shines", "a wonderful cast"),
        ("wooden acting", "nobody seems to care for their lines", "badly miscast"),
    ),
    "music": (
        ("the music is lovely", "a soundtrack to treasure", "great sound"),
        ("the music is grating", "the sound is muddy", "an awful score"),
    ),
    "picture": (
        ("gorgeous to look at", "stunning photography", "every shot is a delight"),
        ("it looks cheap", "ugly and badly lit", "shaky and blurred pictures"),
    ),
    "ending": (
        ("the ending is perfect", "a finale to remember", "it ends just right"),
        ("the ending is a letdown", "it falls apart at the close", "a disappointing finale"),
    ),
}
"""Aspects of an item, praised and blamed."""

OPENINGS = (
    "Watched it on a Sunday",
    "A friend told me of this",
    "I came to it late",
    "Second time for me",
    "Seen in one go",
)

_ADJECTIVES = ("Last", "Silent", "Golden", "Hidden", "Broken", "Endless", "Northern", "Second", "Crimson", "Borrowed")
_NOUNS = ("Promise", "Harbour", "Winter", "Signal", "Garden", "Road", "Shadow", "Letter", "Hour", "Horizon", "Stranger")


def title(number: int) -> str:
    """A title of the item's own."""
    adjective = _ADJECTIVES[number % len(_ADJECTIVES)]
    noun = _NOUNS[(number // len(_ADJECTIVES)) % len(_NOUNS)]
    volume = number // (len(_ADJECTIVES) * len(_NOUNS))
    return f"The {adjective} {noun}" + (f" {volume + 1}" if volume else "")


def topic_name(topic: int) -> str:
    """The topic's name; past the list's end the topics repeat, numbered."""
    names = list(TOPICS)
    return names[topic] if topic < len(names) else f"{names[topic % len(names)]} {topic // len(names) + 1}"


def description(topic: int, subjects: Sequence[int], mood: Sequence[float]) -> str:
    """One sentence: topic, two subjects of it, and the two most marked moods.

    Args:
        topic: index of the topic; past the list's end the topics repeat, numbered.
        subjects: two indices into the topic's subjects.
        mood: a value for each of `MOODS`, below 0 for its first end, above 0 for its second.
    """
    words = list(TOPICS.values())[topic % len(TOPICS)]
    marked = sorted(range(len(MOODS)), key=lambda place: -abs(mood[place]))[:2]
    tones = [MOODS[place][int(mood[place] > 0)] for place in marked]
    first, second = (words[subject % len(words)] for subject in subjects)
    return f"A tale of {topic_name(topic)}, with {first} and {second}. It is {tones[0]}, {tones[1]}."


def review(opening: int, aspects: Sequence[int], liked: Sequence[bool], phrases: Sequence[int]) -> str:
    """Two aspects, each praised or blamed."""
    names = list(ASPECTS)
    said = []
    for aspect, good, phrase in zip(aspects, liked, phrases, strict=True):
        choices = ASPECTS[names[aspect % len(names)]][0 if good else 1]
        said.append(choices[phrase % len(choices)])
    return f"{OPENINGS[opening % len(OPENINGS)]}: {' and '.join(said)}."
