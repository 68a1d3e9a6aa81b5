"""Chat templates: whatever one does, only the request it was rendered for is refused."""

import json
import os
from pathlib import Path
from time import monotonic, process_time
from typing import Any

import pytest

from llmpq_sim.core.errors import InputError, library_errors
from llmpq_sim.core.limits import MOST_TEMPLATE_ENDS
from runtimes.deployment.chat_templates import ChatTemplate
from runtimes.deployment.generation_config import load_text_model
from runtimes.deployment.request_files import read_requests
from runtimes.deployment.requests import PlanLimits
from runtimes.deployment.tokenization import load_tokenizer
from tests.runtimes.tokenizers_of_tests import CHAT_TEMPLATE, save_tokenizer

pytest.importorskip("transformers")

HELLO = [{"role": "user", "content": "hello"}]
FAILING = {
    "{{ 1 / 0 }}": "the chat template fails: ZeroDivisionError: division by zero",
    "{{ 'a' + 1 }}": "the chat template fails: TypeError: ",
    "{% for i in range(10**9) %}{% endfor %}": "the chat template fails: OverflowError: ",
    "{% macro f() %}{{ f() }}{% endmacro %}{{ f() }}": "the chat template fails: RecursionError: ",
    "{% import 'os' as os %}": "the chat template fails: ",
    "{{ strftime_now(5) }}": "the chat template fails: TypeError: ",
    "{{ undefined.attribute }}": "the chat template refuses the messages: ",
    "{{ messages.__class__.__mro__ }}": "the chat template refuses the messages: ",
    "{% if %}": "the chat template refuses the messages: ",
    "{{ raise_exception('no') }}": "the chat template refuses the messages: no",
    "{{ 'a' * 3000000000 }}": "the chat template fails: it needs more than 512 MiB",
    "{{ [0] * 1000000000 }}": "the chat template fails: it needs more than 512 MiB",
}


@pytest.mark.parametrize("text", FAILING)
def test_an_error_of_any_type_is_one_line(text: str) -> None:
    begun_s = process_time()
    with pytest.raises(InputError) as caught:
        ChatTemplate(text, {}).render(HELLO)
    assert str(caught.value).startswith(FAILING[text])
    assert process_time() - begun_s < 2
    assert ChatTemplate("{{ messages[0]['content'] }}", {}).render(HELLO) == "hello"


def test_a_template_that_hangs_is_ended_and_given_up_after_some_times() -> None:
    hanging = "{% for i in range(99999) %}{% for j in range(99999) %}{% endfor %}{% endfor %}"
    hang = "{% if messages[0]['content'] == 'hang' %}" + hanging + "{% endif %}fine"
    template = ChatTemplate(hang, {}, cpu_s=1)
    for _ in range(MOST_TEMPLATE_ENDS - 1):
        with pytest.raises(InputError, match=r"^the chat template took more than 1 s"):
            template.render([{"role": "user", "content": "hang"}])
        assert template.render(HELLO) == "fine"
    with pytest.raises(InputError, match=r"^the chat template took more than 1 s"):
        template.render([{"role": "user", "content": "hang"}])
    begun_s = monotonic()
    with pytest.raises(InputError, match=r"took too long 3 times; given up$"):
        template.render(HELLO)
    assert monotonic() - begun_s < 1


def test_special_tokens_are_there_by_name() -> None:
    assert ChatTemplate("{{ bos_token }}!", {"bos_token": "<s>"}).render(HELLO) == "<s>!"


def asked(folder: Path, contents: list[str]) -> Path:
    path = folder / "requests.jsonl"
    lines = [
        {
            "custom_id": f"r-{number}",
            "method": "POST",
            "url": "/v1/chat/completions",
            "body": {"messages": [{"role": "user", "content": content}], "max_tokens": 4},
        }
        for number, content in enumerate(contents)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines), encoding="utf-8")
    return path


def test_one_request_is_refused_and_the_others_are_served(tmp_path: Path) -> None:
    text = "{{ 1 / messages[0]['content'] | length }} and more"
    save_tokenizer(tmp_path / "tiny", chat_template=text)
    model = load_text_model("tiny", 1000, tmp_path / "tiny")
    found = read_requests(asked(tmp_path, ["a", "", "b"]), model, PlanLimits(64, 128))
    assert [request.tokens.name for request in found.accepted] == ["r-0", "r-2"]
    assert [request.name for request in found.rejected] == ["r-1"]
    assert "ZeroDivisionError" in found.rejected[0].message


@pytest.mark.parametrize(
    "settings",
    [
        {"chat_template": 5},
        {"chat_template": [{"name": "a", "template": "x"}, {"name": "b", "template": "y"}]},
        {"chat_template": {"a": 1}},
        {"chat_template": ["x"]},
        {"chat_template": [5]},
        {"chat_template": True},
        {"bos_token": 5},
        {"bos_token": {"content": 5}},
        {"model_max_length": "x"},
        {"model_max_length": []},
        {"added_tokens_decoder": {"0": 5}},
        {"added_tokens_decoder": 5},
        {"tokenizer_class": 5},
        {"extra_special_tokens": 5},
        {"additional_special_tokens": {"a": 1}},
        {"auto_map": 5},
        {"padding_side": 5},
    ],
)
def test_settings_of_the_wrong_type_refuse_at_most_requests(
    tmp_path: Path, settings: dict[str, Any]
) -> None:
    save_tokenizer(tmp_path / "tiny")
    path = tmp_path / "tiny" / "tokenizer_config.json"
    content = json.loads(path.read_text(encoding="utf-8")) | settings
    path.write_text(json.dumps(content), encoding="utf-8")
    try:
        model = load_text_model("tiny", 1000, tmp_path / "tiny")
    except InputError as error:
        assert "expected a usable tokenizer" in str(error)  # noqa: PT017
        return
    found = read_requests(asked(tmp_path, ["a"]), model, PlanLimits(64, 128))
    assert len(found.accepted) + len(found.rejected) == 1


class PanicException(BaseException):
    """As the one of tokenizers, which cannot be imported."""


def test_a_panic_of_a_library_is_one_line_and_an_interrupt_passes() -> None:
    with pytest.raises(InputError, match=r"^here: index out of bounds$"), library_errors("here"):
        raise PanicException("index out of bounds")
    for error in (KeyboardInterrupt, SystemExit, GeneratorExit):
        with pytest.raises(error), library_errors("here"):
            raise error


@pytest.mark.parametrize("name", ["tokenizer.json", "chat_template.jinja", "merges.txt"])
def test_a_pipe_in_the_folder_is_refused(tmp_path: Path, name: str) -> None:
    save_tokenizer(tmp_path, chat_template=CHAT_TEMPLATE)
    (tmp_path / name).unlink(missing_ok=True)
    os.mkfifo(tmp_path / name)
    with pytest.raises(InputError, match="expected a file, got a device or pipe"):
        load_tokenizer(tmp_path)
