"""Generation config of a model: vocabulary, end tokens, sampling."""

from dataclasses import dataclass, field
from pathlib import Path

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import Fields, kind_of
from llmpq_sim.io.files import read_json
from runtimes.base import Sampling
from runtimes.deployment.tokenization import ModelTokenizer, load_tokenizer

SPECIAL_FIELDS = ("bos_token_id", "pad_token_id", "decoder_start_token_id")


@dataclass(frozen=True)
class TextModel:
    """A model, as far as reading requests and writing results depends on it.

    Attributes:
        name: what results call it.
        vocabulary_tokens: ids are below this number.
        stop_tokens: ids that end a sequence, sorted.
        special_tokens: ids that no ordinary text has, those that end a sequence among them.
        sampling: how tokens are chosen where a request does not say; its seed is not used.
        tokenizer: None where there is none; then prompts must be token ids.
        stored: a hash of how its weights are stored, on which answers depend as on its name.
    """

    name: str
    vocabulary_tokens: int
    stop_tokens: tuple[int, ...] = ()
    special_tokens: frozenset[int] = frozenset()
    sampling: Sampling = field(default_factory=Sampling)
    tokenizer: ModelTokenizer | None = None
    stored: str = ""

    @property
    def identity(self) -> str:
        """What answers are by: the same requests of another one are answered otherwise."""
        return f"{self.name} {self.stored}".rstrip()


def load_text_model(name: str, vocabulary_tokens: int, model_dir: Path | None) -> TextModel:
    """Return what a model folder in Hugging Face's layout says of the model's tokens.

    A sequence ends at the ids of ``eos_token_id`` in generation_config.json, or else in
    config.json, and at the tokenizer's own. Where generation_config.json says ``do_sample``, its
    ``temperature`` (or else 1), ``top_k`` and ``top_p`` are the defaults; otherwise the most
    probable token is the default, as in transformers' ``generate()``.

    Args:
        name: what results call the model.
        vocabulary_tokens: rows of its embedding.
        model_dir: its folder; None where there is none, and nothing but the vocabulary is known.

    Raises:
        InputError: a file of the folder says something that cannot be.
    """
    if model_dir is None:
        return TextModel(name, vocabulary_tokens)
    generation, config = _settings(model_dir, "generation_config.json"), _config(model_dir)
    tokenizer = load_tokenizer(model_dir)
    ends = set(_ids(generation, "eos_token_id") or _ids(config, "eos_token_id"))
    specials = {
        i for file in (generation, config) for key in SPECIAL_FIELDS for i in _ids(file, key)
    }
    if tokenizer is not None:
        ends |= set(tokenizer.stop_tokens)
        specials |= tokenizer.special_tokens
    return TextModel(
        name=name,
        vocabulary_tokens=vocabulary_tokens,
        stop_tokens=tuple(sorted(ends)),
        special_tokens=frozenset(specials | ends),
        sampling=_sampling(generation),
        tokenizer=tokenizer,
    )


def _settings(model_dir: Path, file_name: str) -> Fields:
    """Return a file of the folder as fields; none where there is no such file."""
    path = model_dir / file_name
    return Fields(read_json(path) if path.exists() else {}, file_name)


def _config(model_dir: Path) -> Fields:
    """Return the part of config.json that describes the language model."""
    config = _settings(model_dir, "config.json")
    return config.fields("text_config") if config.has("text_config") else config


def _ids(file: Fields, key: str) -> tuple[int, ...]:
    """Return the ids of a field that holds one, a list of them, or none."""
    value = file.value(key, None)
    ids = [] if value is None else value if isinstance(value, list) else [value]
    for item in ids:
        if type(item) is not int:
            raise InputError(f"{file.where}.{key}: expected token ids, got {kind_of(item)}")
    return tuple(item for item in ids if item >= 0)  # some files write -1 for none


def _sampling(generation: Fields) -> Sampling:
    if not generation.flag("do_sample", False):
        return Sampling()
    return Sampling(
        temperature=generation.number("temperature", 1.0, positive=False),
        top_k=generation.integer("top_k", 0, least=0),
        top_p=generation.fraction("top_p", 1.0),
    )
