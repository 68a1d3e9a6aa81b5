"""Token requests from bodies of chats and completions."""

import json
from collections.abc import Mapping
from hashlib import sha256

from llmpq_sim.core.errors import InputError
from llmpq_sim.core.fields import LARGEST_NUMBER, Fields, kind_of
from runtimes.base import Sampling, TokenRequest
from runtimes.deployment.generation_config import TextModel
from runtimes.deployment.requests import (
    CHAT,
    UNSUPPORTED,
    Endpoint,
    PlanLimits,
    RejectionError,
)
from runtimes.deployment.tokenization import Message, ModelTokenizer

DEFAULT_TEXT_TOKENS = 16
"""Most tokens of a completion that names no limit. Source: OpenAI's API reference, max_tokens."""

NEUTRAL: Mapping[str, tuple[object, ...]] = {
    "n": (1,),
    "best_of": (1,),
    "stream": (False,),
    "echo": (False,),
    "logprobs": (False,),
    "top_logprobs": (0,),
    "frequency_penalty": (0,),
    "presence_penalty": (0,),
    "repetition_penalty": (1,),
    "min_p": (0,),
    "min_tokens": (0,),
    "logit_bias": ({},),
    "tools": ([],),
    "tool_choice": ("none", "auto"),
    "response_format": ({"type": "text"},),
    "modalities": (["text"],),
    "suffix": ("",),
    "skip_special_tokens": (True,),
}
"""What is not supported, with the values that ask for nothing."""

WITHOUT_EFFECT = (
    "model",
    "user",
    "metadata",
    "store",
    "service_tier",
    "safety_identifier",
    "prompt_cache_key",
    "parallel_tool_calls",
    "stream_options",
)
"""What may be given and changes no token: there is one model, and nothing is kept elsewhere."""


class BodyReader:
    """Reads bodies of requests to one model under one plan.

    Attributes:
        model: the model asked.
        limits: the longest request that the plan holds.
        seed: from which requests without a seed draw, each by its name.
    """

    def __init__(self, model: TextModel, limits: PlanLimits, seed: int) -> None:
        self.model = model
        self.limits = limits
        self.seed = seed

    def read(self, body: Fields, name: str, endpoint: Endpoint) -> TokenRequest:
        """Return what a body asks for; its length is not checked yet.

        Raises:
            InputError: the body says something that cannot be, or that cannot be served; a
                RejectionError where there is a code for it.
        """
        with body:
            for key in WITHOUT_EFFECT:
                body.has(key)
            _refuse_unsupported(body)
            prompt = self._chat(body) if endpoint == CHAT else self._prompt(body)
            return TokenRequest(
                name=name,
                prompt=prompt,
                output_tokens=self._output_tokens(body, len(prompt), endpoint),
                sampling=self._sampling(body, name),
                stop_tokens=self._stop_tokens(body),
            )

    # ---- prompts

    def _prompt(self, body: Fields) -> tuple[int, ...]:
        prompt = body.value("prompt")
        if isinstance(prompt, str):
            return self._usable(body, "prompt", self._tokenizer(body, "prompt").encode(prompt))
        if isinstance(prompt, list) and all(type(token) is int for token in prompt):
            return self._usable(body, "prompt", tuple(prompt))
        found = "a list of prompts" if isinstance(prompt, list) else kind_of(prompt)
        raise InputError(
            f"{body.where}.prompt: expected one text or one list of token ids, got {found}"
        )

    def _chat(self, body: Fields) -> tuple[int, ...]:
        messages = [_message(fields) for fields in body.each("messages")]
        if not messages:
            raise InputError(f"{body.where}.messages: expected at least one message, got none")
        tokenizer = self._tokenizer(body, "messages")
        try:
            tokens = tokenizer.encode_chat(messages)
        except InputError as error:
            raise InputError(f"{body.where}.messages: {error}") from None
        return self._usable(body, "messages", tokens)

    def _tokenizer(self, body: Fields, field: str) -> ModelTokenizer:
        if self.model.tokenizer is None:
            raise InputError(
                f"{body.where}.{field}: the model folder has no tokenizer to read a text with: add "
                "its tokenizer.json and tokenizer_config.json, or give prompt as a list of token "
                "ids to /v1/completions"
            )
        return self.model.tokenizer

    def _usable(self, body: Fields, field: str, tokens: tuple[int, ...]) -> tuple[int, ...]:
        if not tokens:
            raise InputError(f"{body.where}.{field}: expected at least one token, got none")
        return self._known(body, field, tokens)

    def _known(self, body: Fields, field: str, tokens: tuple[int, ...]) -> tuple[int, ...]:
        """Return token ids that the model has an embedding for."""
        largest = self.model.vocabulary_tokens - 1
        for token in tokens:
            if not 0 <= token <= largest:
                raise InputError(
                    f"{body.where}.{field}: expected token ids from 0 to {largest}, got {token}"
                )
        return tokens

    # ---- outputs

    def _output_tokens(self, body: Fields, prompt_tokens: int, endpoint: Endpoint) -> int:
        keys = ("max_tokens", "max_completion_tokens")
        stated = {body.integer(key) for key in keys if body.has(key)}
        if len(stated) > 1:
            found = f"{body.integer(keys[0])} and {body.integer(keys[1])}"
            raise InputError(f"{body.where}: expected {keys[0]} or {keys[1]}, got both: {found}")
        if stated:
            return stated.pop()
        room = max(1, self.limits.room_tokens(prompt_tokens))
        return room if endpoint == CHAT else min(room, DEFAULT_TEXT_TOKENS)

    def _stop_tokens(self, body: Fields) -> tuple[int, ...]:
        ends = set() if body.flag("ignore_eos", False) else set(self.model.stop_tokens)
        ids = body.items("stop_token_ids", [])
        for token in ids:
            if type(token) is not int:
                found = kind_of(token)
                raise InputError(f"{body.where}.stop_token_ids: expected token ids, got {found}")
        ends |= set(self._known(body, "stop_token_ids", tuple(ids)))
        ends |= {self._stop_token(body, text) for text in _stop_texts(body)}
        return tuple(sorted(ends))

    def _stop_token(self, body: Fields, text: str) -> int:
        tokenizer = self._tokenizer(body, "stop")
        tokens = tokenizer.encode_piece(text)
        if len(tokens) != 1:
            raise RejectionError(
                UNSUPPORTED,
                f"{body.where}.stop: expected texts of one token, as generation stops at tokens, "
                f"got {kind_of(text)} of {len(tokens)} tokens: leave it out and cut the output "
                "yourself",
            )
        return tokens[0]

    def _sampling(self, body: Fields, name: str) -> Sampling:
        default = self.model.sampling
        narrowed = body.has("top_p") or body.has("top_k")
        # OpenAI's default of 1 only where a request otherwise says that it wants draws
        temperature = 1.0 if narrowed and default.temperature == 0 else default.temperature
        given = body.has("seed")
        least = -int(LARGEST_NUMBER)
        return Sampling(
            temperature=body.number("temperature", temperature, positive=False),
            top_k=max(0, body.integer("top_k", default.top_k, least=-1)),  # -1 is vLLM's "all"
            top_p=body.fraction("top_p", default.top_p),
            seed=body.integer("seed", least=least) % 2**63
            if given
            else named_seed(self.seed, name),
        )


def named_seed(seed: int, name: str) -> int:
    """Return the seed of a request that names none: 63 bits that its name and the run's give."""
    digest = sha256(f"{seed}/{name}".encode()).digest()
    return int.from_bytes(digest[:8], "big") >> 1


def _refuse_unsupported(body: Fields) -> None:
    for key, accepted in NEUTRAL.items():
        value = body.value(key, None)
        if value is not None and not any(_same(value, neutral) for neutral in accepted):
            expected = " or ".join(json.dumps(neutral) for neutral in accepted)
            raise RejectionError(
                UNSUPPORTED,
                f"{body.where}.{key}: expected nothing or {expected}, as no more is supported, "
                f"got {kind_of(value)}",
            )


def _same(value: object, neutral: object) -> bool:
    return isinstance(value, bool) == isinstance(neutral, bool) and value == neutral


def _message(fields: Fields) -> Message:
    with fields:
        fields.has("name")  # chat templates do not write it
        content = fields.value("content")
        if isinstance(content, list):  # joined as vLLM does for templates that take texts
            content = "\n".join(_part(part) for part in fields.each("content"))
        if not isinstance(content, str):
            raise InputError(f"{fields.where}.content: expected a text, got {kind_of(content)}")
        return {"role": fields.text("role"), "content": content}


def _part(fields: Fields) -> str:
    with fields:
        fields.choice("type", ("text",))
        text = fields.value("text")
        if not isinstance(text, str):
            raise InputError(f"{fields.where}.text: expected a text, got {kind_of(text)}")
        return text


def _stop_texts(body: Fields) -> list[str]:
    stop = body.value("stop", [])
    texts = stop if isinstance(stop, list) else [stop]
    for text in texts:
        if not (isinstance(text, str) and text):
            found = kind_of(text)
            raise InputError(f"{body.where}.stop: expected a text or a list of texts, got {found}")
    return texts
