"""The settings of the recommender agents and of what reads for them: the group `agents` of an experiment."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from .errors import suggestion
from .settings_base import NonNegative, Positive, Settings

RECOMMENDERS = ("cf", "content", "sentiment", "knowledge", "sequence")
"""The recommender agents there are, in the order of the fusion weights."""

TEAM = ("cf", "content", "sentiment")
"""The recommender agents of a team that names none."""


class CollaborativeSettings(Settings):
    method: Literal["best", "als", "bpr", "item_knn", "ease"] = Field(
        default="best", description="`best` is picked on the latest of each user's likes; only `als` reads the rest"
    )
    candidate: int | None = Field(
        default=None, ge=0, description="which model of the method to take, as a run's facts name it; default: picked"
    )
    factors: Positive = Field(default=256, description="dimensions of the item vectors, at most")
    iterations: Positive = 15
    regularization: NonNegative = 60.0
    alpha: NonNegative = Field(default=10.0, description="confidence a unit of weight adds")
    popularity: NonNegative = Field(
        default=0.15, description="what a standard deviation of log popularity adds to a score"
    )


class ContentSettings(Settings):
    factors: Positive = Field(default=64, description="dimensions of the item vectors, at most")
    projection: Literal["learned", "principal"] = Field(
        default="learned", description="of the embeddings: learned on what users like, or their principal axes"
    )
    layers: int = Field(default=0, ge=0, description="last layers of the encoder that learn what is liked together")
    epochs: Positive = Field(default=1, description="layers: rounds of pairs")
    pairs: Positive = Field(default=6000, description="layers: pairs of liked items read a round")
    images: str | None = Field(
        default=None, description="a transformers vision model (folder or name) that reads the items' image_path"
    )


class SentimentSettings(Settings):
    head: Literal["logistic", "finetuned"] = Field(default="logistic", description="on the encoder, as it is or tuned")
    layers: Positive = Field(default=3, description="finetuned: last layers of the encoder that learn")
    epochs: Positive = Field(default=2, description="finetuned: times that every review is read")
    prior_reviews: NonNegative = Field(default=5.0, description="reviews' worth of the catalog mean in each polarity")
    half_life: Literal["best"] | NonNegative = Field(default="best", description="of an opinion, in days; 0: none")
    volume: Literal["best"] | NonNegative = Field(default="best", description="weight of how much is said, by polarity")
    aspects: int = Field(default=8, ge=0, description="aspects looked for in the reviews")
    components: int = Field(default=7, ge=0, description="principal components of the mean review beside the polarity")
    max_reviews: Positive = Field(default=20000, description="reviews read to train the head and score the items")


class KnowledgeSettings(Settings):
    factors: Positive = Field(default=64, description="dimensions of the item vectors")


class SequenceSettings(Settings):
    method: Literal["best", "transformer", "transitions"] = Field(
        default="best", description="`best` is picked on the latest of each user's likes"
    )
    factors: Positive = Field(default=128, description="transitions: dimensions of the item vectors")
    width: Positive = Field(default=64, multiple_of=8, description="transformer: dimensions of the item vectors")
    layers: Positive = 1
    heads: Positive = 1
    dropout: float = Field(default=0.4, ge=0, lt=1)
    length: Positive = Field(default=100, description="transformer: the latest interactions, which are read")
    epochs: Positive = Field(default=32, description="transformer: at most; the best on the latest likes is kept")


class TaskWeights(Settings):
    """What each loss of pretraining counts."""

    click: float = Field(default=1.0, gt=0)
    rating: float = Field(default=0.2, gt=0)
    ranking: float = Field(default=0.25, gt=0)
    polarity: float = Field(default=4.0, gt=0)
    masked: float = Field(default=1.0, gt=0)


class PretrainSettings(Settings):
    """One trunk for the words and the interactions, learned on several tasks at once."""

    use: bool = Field(default=False, description="the content tower takes its item vectors from it")
    tasks: tuple[Literal["click", "rating", "ranking", "polarity", "masked"], ...] = Field(
        default=("click", "rating", "ranking", "polarity", "masked"), min_length=1
    )
    balance: Literal["fixed", "uncertainty", "gradient"] = Field(
        default="fixed", description="the weights as they are, or learned from there on"
    )
    weights: TaskWeights = TaskWeights()
    factors: Positive = Field(default=32, description="dimensions of the item vectors")
    epochs: Positive = Field(default=60, description="at most")
    patience: Positive = Field(default=8, description="epochs without a gain after which a task is learned no more")
    steps: Positive = Field(default=20, description="steps an epoch")
    batch: Positive = Field(default=512, description="rows of each task in a step")
    negatives: Positive = Field(default=1024, description="items of the catalog that a step contrasts with, at most")
    learning_rate: NonNegative = 2e-3
    l2: NonNegative = Field(default=0.1, description="decay of all parameters, a unit of the learning rate")
    dropout: float = Field(default=0.5, ge=0, lt=1, description="of the words, and of an item's own vector as a whole")
    forget: float = Field(default=0.3, ge=0, lt=1, description="part of the histories left out of a step")


class EncoderSettings(Settings):
    model: str = Field(
        default="all-MiniLM-L6-v2", description="a transformers model: the packaged default, a folder, or a name"
    )
    batch_size: Positive = 64
    max_tokens: Positive = Field(default=128, description="longer texts are cut")
    cache: str | None = Field(
        default=None, description="folder of the embedding cache; default: the user's cache folder"
    )


class AgentsSettings(Settings):
    """The recommender agents of the team and their towers."""

    names: tuple[str, ...] = TEAM
    cf: CollaborativeSettings = CollaborativeSettings()
    content: ContentSettings = ContentSettings()
    sentiment: SentimentSettings = SentimentSettings()
    knowledge: KnowledgeSettings = KnowledgeSettings()
    sequence: SequenceSettings = SequenceSettings()
    propagate: dict[str, NonNegative] = Field(
        default={}, description="by agent, the share of its neighbours in the graph that an item takes in: {cf: 0.3}"
    )
    pretrain: PretrainSettings = PretrainSettings()
    encoder: EncoderSettings = EncoderSettings()

    @model_validator(mode="after")
    def _known(self) -> AgentsSettings:
        for name in (*self.names, *self.propagate):
            if name not in RECOMMENDERS:
                raise ValueError(
                    f'no agent "{name}"{suggestion(name, RECOMMENDERS)} (agents: {", ".join(RECOMMENDERS)})'
                )
        if not self.names or len(set(self.names)) != len(self.names):
            raise ValueError("names at least one agent, each once")
        return self
