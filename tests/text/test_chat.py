"""Chat templates: the same texts as TRL, round trips, tokens of the boundary, BOS and EOS once."""

import signal

import pytest

from diffdpo.data.text.messages import BadRow
from diffdpo.data.text.schema import Example
from diffdpo.errors import UserError
from diffdpo.text.tokens import chat
from diffdpo.text.tokens.chat import left_out, render
from diffdpo.text.tokens.encode import encode_all, end_once
from tests.text.factory import MOODY, TEMPLATES, assistant, tokenizer, user

SYSTEM = {"role": "system", "content": "be kind"}
TURNS = [user("hi"), assistant("yes?"), user("the end?")]
PROMPTS = {"one turn": [user("hi")], "system": [SYSTEM, user("hi")], "turns": TURNS}
SIDES = ([assistant("in a noon")], [assistant("then no")])


@pytest.fixture(params=TEMPLATES)
def templated(request):
    return tokenizer(TEMPLATES[request.param])


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_texts_are_those_of_trl(templated, prompt):
    trl = pytest.importorskip("trl.data_utils")
    theirs = trl.apply_chat_template(
        {"prompt": prompt, "chosen": SIDES[0], "rejected": SIDES[1]}, templated
    )
    ours = render(Example(prompt, SIDES), templated)
    assert ours.prompt == theirs["prompt"]
    assert ours.wholes == (
        theirs["prompt"] + theirs["chosen"],
        theirs["prompt"] + theirs["rejected"],
    )
    single = trl.apply_chat_template(
        {"prompt": prompt, "completion": SIDES[0], "label": True}, templated
    )
    assert render(Example(prompt, SIDES[:1], desirable=True), templated).prompt == single["prompt"]


@pytest.mark.parametrize("prompt", PROMPTS.values(), ids=PROMPTS)
def test_prompt_and_completion_put_together_are_the_whole_conversation(templated, prompt):
    (encoded,) = encode_all([render(Example(prompt, SIDES), templated)], templated)
    for side, ids in zip(SIDES, encoded.completions, strict=True):
        whole = templated.apply_chat_template(prompt + side, tokenize=False)
        assert templated.decode(encoded.prompt + ids) == whole
        assert encoded.prompt + ids == templated(whole, add_special_tokens=False)["input_ids"]


def test_a_prompt_that_ends_with_the_assistant_is_continued():
    trl = pytest.importorskip("trl.data_utils")
    prompt = [user("hi"), assistant("par")]
    for template in (TEMPLATES["chatml"], TEMPLATES["llama3"]):
        words = tokenizer(template)
        theirs = trl.apply_chat_template(
            {"prompt": prompt, "chosen": SIDES[0], "rejected": SIDES[1]}, words
        )
        assert render(Example(prompt, SIDES), words).prompt == theirs["prompt"]


BEGUN = [user("hi"), assistant("the"), user("and"), assistant("a par")]


def test_a_begun_answer_goes_on_in_its_turn(templated):
    """The library's own calls: the prompt as it is written to be continued, and the whole
    conversation with one last message."""
    rendered = render(Example(BEGUN, ([assistant("k is")], [assistant(" no")])), templated)
    begun = templated.apply_chat_template(BEGUN, tokenize=False, continue_final_message=True)
    assert rendered.prompt == begun
    assert begun.endswith("a par")
    for words, whole in zip(("a park is", "a par no"), rendered.wholes, strict=True):
        one = [*BEGUN[:-1], assistant(words)]
        assert whole == templated.apply_chat_template(one, tokenize=False)
    encoded = encode_all([rendered], templated)[0]
    assert templated.decode(encoded.completions[0]).startswith("k is")
    assert templated.decode(encoded.prompt) == begun


def test_a_turn_that_cannot_be_one_is_refused():
    words = tokenizer(TEMPLATES["chatml"])
    thoughts = {**assistant("no"), "reasoning_content": "hm"}
    with pytest.raises(BadRow, match="the completion begins with thoughts"):
        render(Example(BEGUN, (SIDES[0], [thoughts])), words)
    with pytest.raises(BadRow, match="ends with a call of a tool"):
        render(Example([user("hi"), ASKING], SIDES), words)
    dropping = tokenizer(
        "{% for m in messages %}[{{ m.content.split('</think>')[-1] }}]{% endfor %}"
    )
    sides = ([assistant("m</think>yes")], [assistant("m</think>no")])
    with pytest.raises(BadRow, match="writes the begun answer otherwise"):
        render(Example([user("hi"), assistant("<think>h")], sides), dropping)


def test_a_think_that_the_template_opens_stays_with_the_answer():
    words = tokenizer(TEMPLATES["deepseek"])
    thinking = [assistant("<think>\nhm</think>yes")]
    # Both answers think, so what the template has opened is the same for both and is the prompt's.
    both = render(Example([user("hi")], (thinking, [assistant("<think>\nno</think>no")])), words)
    assert both.prompt.endswith("<|Assistant|><think>\n")
    # Only one does: then the boundary moves in front of it, or the other answer would not fit.
    one = render(Example([user("hi")], (thinking, [assistant("no")])), words)
    assert one.prompt.endswith("<|Assistant|>")
    assert one.wholes[0].removeprefix(one.prompt).startswith("<think>\nhm")


def test_tools_and_options_reach_the_template():
    words = tokenizer(TEMPLATES["llama3"])
    tools = [{"type": "function", "function": {"name": "f"}}]
    assert "[tools 1]" in render(Example([user("hi")], SIDES, tools=tools), words).prompt
    assert "[tools" not in render(Example([user("hi")], SIDES), words).prompt
    moody = render(
        Example([user("hi")], SIDES, template_options={"mood": "glad"}), tokenizer(MOODY)
    )
    assert moody.prompt.startswith("(glad)")


def test_no_template_and_a_template_that_refuses():
    with pytest.raises(UserError, match="no chat template"):
        render(Example([user("hi")], SIDES), tokenizer())
    with pytest.raises(BadRow, match=r"refuses it .*roles must alternate"):
        render(
            Example([user("hi")], SIDES), tokenizer("{{ raise_exception('roles must alternate') }}")
        )


CALLS = [{"type": "function", "function": {"name": "f", "arguments": {"x": 1}}}]
ASKING = {"role": "assistant", "content": None, "tool_calls": CALLS}
# One template writes arguments as JSON, the other puts them between texts, as DeepSeek's does.
WRITERS = {
    "as JSON": "{{ call['function']['arguments'] | tojson }}",
    "between texts": "{{ '<' + call['function']['arguments'] + '>' }}",
}


@pytest.mark.parametrize("writer", WRITERS.values(), ids=WRITERS)
def test_arguments_of_calls_are_written_once_by_either_kind_of_template(writer):
    calls = "{% for m in messages %}{% if m.tool_calls %}{% for call in m.tool_calls %}" + writer
    words = tokenizer(calls + "{% endfor %}{% else %}{{ m.content }}{% endif %}{% endfor %}")
    whole = render(Example([user("hi")], ([ASKING], [assistant("no")])), words).wholes[0]
    assert whole.removeprefix("hi").strip("<>") == '{"x": 1}'


def test_a_template_that_does_not_end_is_stopped(monkeypatch):
    monkeypatch.setattr(chat, "PATIENCE", 0.2)
    loop = "{% for a in range(90000) %}{% for b in range(90000) %}{% endfor %}{% endfor %}"
    with pytest.raises(UserError, match=r"takes more than 0.2 s for one text"):
        render(Example([user("hi")], SIDES), tokenizer(loop))
    assert signal.getsignal(signal.SIGALRM) is signal.SIG_DFL


def test_what_a_template_leaves_out_of_a_completion_is_told():
    words = tokenizer(
        "{% for m in messages %}[{{ m.content.split('</think>')[-1] | trim }}]{% endfor %}"
    )
    thinking = Example([user("hi")], ([assistant("<think>hm</think> yes")], [assistant(" no")]))
    assert left_out(thinking, render(thinking, words)) == "<think>hm</think> yes"
    for example in (
        Example([user("hi")], SIDES),
        Example([user("hi")], ([assistant(" yes \n")], [assistant("no")])),  # white space alone
        Example("hi", ("yes", "no")),
    ):
        assert left_out(example, render(example, words)) is None
    called = Example([user("hi")], ([{**ASKING, "content": "so"}], [assistant("no")]))
    assert left_out(called, render(called, words)) == "f"
    asked = Example([{"role": "system", "content": "be kind"}, user("hi")], SIDES)
    silent = tokenizer("{% for m in messages if m.role != 'system' %}[{{ m.content }}]{% endfor %}")
    assert left_out(asked, render(asked, silent)) == "be kind"
    tools = [{"type": "function", "function": {"name": "g"}}]
    told = Example([user("hi")], SIDES, tools=tools)
    assert left_out(told, render(told, words)) == "g"


@pytest.mark.parametrize("name", ["chat_template", "tokenize", "tools", "continue_final_message"])
def test_a_row_sets_options_of_the_template_and_nothing_else(name):
    example = Example([user("hi")], SIDES, template_options={name: "x"})
    with pytest.raises(BadRow, match=f"chat_template_kwargs sets {name}"):
        render(example, tokenizer(TEMPLATES["chatml"]))


def plain(prompt, *sides, **options):
    words = tokenizer(**options)
    return words, *encode_all([render(Example(prompt, sides), words)], words)


def test_plain_text_gets_bos_and_eos_once():
    words, encoded = plain("hi", " yes", " no", bos=True)
    assert encoded.prompt[0] == words.bos_token_id
    for ids in encoded.completions:
        assert ids[-1] == words.eos_token_id
        assert (
            (encoded.prompt + ids).count(words.bos_token_id) == ids.count(words.eos_token_id) == 1
        )
    # The marks are in the text already: they must not be there twice.
    _, again = plain("<|bos|>hi", " yes<|eos|>", " no", bos=True)
    assert again == encoded
    assert end_once([5, 1, 1], words) == end_once([5], words) == [5, 1]


def test_tokens_that_merge_across_the_boundary_belong_to_the_completion():
    words, encoded = plain("Q:", " yes", "no")  # ": " is one token
    assert words.decode(encoded.prompt) == "Q"
    assert [words.decode(ids) for ids in encoded.completions] == [": yes<|eos|>", ":no<|eos|>"]


def test_an_empty_prompt_is_allowed():
    words, encoded = plain("", "yes", "no")
    assert encoded.prompt == []
    assert words.decode(encoded.completions[0]) == "yes<|eos|>"
