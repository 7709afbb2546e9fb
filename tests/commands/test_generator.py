"""Continuations from a service: the same figures as of those that are written here."""

import json

import pytest
from transformers import AutoModelForCausalLM, AutoTokenizer

from diffdpo.cli import run_command
from diffdpo.text.sampling.generate import SampleSettings, continued, uniforms
from tests.runs import only_error
from tests.service import Service
from tests.text.factory import save_model

pytestmark = pytest.mark.usefixtures("no_plots")
OWN = "def length(texts):\n    return [float(len(text)) for text in texts]\n"
KEY = "sk-not-to-be-told"


class Writer(Service):
    """Continues prompts as this package does, with the networks in the folders of its models."""

    tells_tokens = True
    broken = None

    def __init__(self, models):
        super().__init__()
        self.networks = {name: AutoModelForCausalLM.from_pretrained(path).eval()
                         for name, path in models.items()}  # fmt: skip
        self.tokenizer = AutoTokenizer.from_pretrained(next(iter(models.values())))

    def answer(self, body):
        if self.broken or body["model"] not in self.networks:
            return self.broken or (404, b'{"message": "no such model"}')
        prompt, end = body["prompt"], self.tokenizer.eos_token_id
        (visit,) = (number for number in range(2)
                    if int(uniforms(0, prompt, number, 1)[0] * 2**31) == body["seed"])  # fmt: skip
        settings = SampleSettings(0, 2, body["max_tokens"], 1, len(self.tokenizer))
        (ids,) = continued(self.networks[body["model"]], [(prompt, visit)], (end,), settings)
        text = self.tokenizer.decode(ids, skip_special_tokens=True)
        choice = {"text": text, "finish_reason": "stop" if ids[-1] == end else "length"}
        if self.tells_tokens:  # without the one at the end, as some leave it out
            choice["token_ids"] = ids[:-1] if ids[-1] == end else ids
        return 200, json.dumps({"choices": [choice]}).encode()


@pytest.fixture(scope="module")
def other(tmp_path_factory):
    return save_model(tmp_path_factory.mktemp("other") / "model", seed=3)


@pytest.fixture
def service(lm, other):
    with Writer({str(lm): lm, str(other): other, "base": lm, "mine": other}) as server:
        yield server


@pytest.fixture
def words(lm, data, other, tmp_path):
    (tmp_path / "own.py").write_text(OWN)
    words = ["--policy", other, "--model_name_or_path", lm, "--dataset_name", data["pairs"]]
    words += "--split train --num_prompts 4 --samples_per_prompt 2 --max_new_tokens 6".split()
    words += ["--output_dir", tmp_path / "out", "--reward", f"{tmp_path / 'own.py'}:length"]
    return [str(word) for word in words]


def figures(words, folder):
    assert run_command("evaluate_text", words) == 0
    found = json.loads((folder / "out" / "evaluation.json").read_text())
    del found["settings"]
    return found


def test_a_service_gives_the_figures_of_the_models_that_it_has(service, words, tmp_path, capsys):
    here = figures(words, tmp_path)
    assert not service.requests
    assert figures([*words, "--generator_url", service.url], tmp_path) == here
    assert "sampled by a service" in (tmp_path / "out" / "report.html").read_text()
    assert len(service.requests) == 16  # 4 prompts, twice each, by two models
    for path, body in service.requests:
        assert path == "/v1/completions"
        assert (body["temperature"], body["top_p"], body["max_tokens"]) == (1, 1, 6)
    service.tells_tokens = False
    capsys.readouterr()
    untold = figures([*words, "--generator_url", service.url], tmp_path)
    gone = {"kl", "policy_tokens", "reference_tokens"}
    assert untold == {name: figure for name, figure in here.items() if name not in gone}
    assert "the service tells no tokens" in capsys.readouterr().out


def test_models_may_have_other_names_there_and_a_key(service, words, tmp_path, monkeypatch):
    monkeypatch.setenv("THE_KEY", KEY)
    more = ["--generator_url", service.url, "--generator_model", "base", "mine"]
    figures([*words, *more, "--generator_api_key_env", "THE_KEY"], tmp_path)
    assert {body["model"] for _, body in service.requests} == {"base", "mine"}
    assert {told["Authorization"] for told in service.headers} == {f"Bearer {KEY}"}
    for file in (tmp_path / "out").iterdir():
        assert KEY not in file.read_text()


BROKEN = {
    "an error": ((500, b"out of memory"), "500 Internal Server Error: out of memory"),
    "no JSON": ((200, b"hello"), "its answer is no JSON"),
    "a chat": ("hello", "its answer has no text among its choices"),
    "no end": ((200, b'{"choices": [{"text": "a"}]}'), "no continuation that ends with stop"),
    "odd tokens": (
        (200, b'{"choices": [{"text": "a", "finish_reason": "stop", "token_ids": ["a"]}]}'),
        "its token_ids are no list of tokens",
    ),
}


@pytest.mark.parametrize(("reply", "line"), BROKEN.values(), ids=BROKEN)
def test_a_service_that_fails_is_one_line(service, words, lm, capsys, reply, line):
    service.broken = reply
    assert run_command("evaluate_text", [*words, "--generator_url", service.url]) == 2
    error = only_error(capsys)
    assert error.startswith(f"error: generator {lm} at {service.url}: ")
    assert line in error
