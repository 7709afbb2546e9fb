"""Checkpoints and recorded settings under random damage: refused in a line, or the same numbers."""

import json
import shutil

import pytest
import torch
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from safetensors.torch import load_file

from diffdpo.engine import checkpoint
from diffdpo.engine.checkpoint_state import FIELDS, FILE, TENSOR_FILES, WITHOUT_DIGESTS
from diffdpo.engine.folder_check import mend_metrics
from diffdpo.engine.journal import Journal
from diffdpo.engine.resume import check_same_run
from diffdpo.engine.run_config import recorded
from diffdpo.errors import UserError

MANY = settings(
    max_examples=100, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture]
)
JSON = st.recursive(
    st.none() | st.booleans() | st.integers() | st.floats() | st.text(max_size=8),
    lambda inner: (
        st.lists(inner, max_size=3) | st.dictionaries(st.text(max_size=8), inner, max_size=3)
    ),
    max_leaves=8,
)
STATE = {"step": 3, "settings": {"seed": 1}, "effective_batch": 2, "data": "rows"}


def network():
    torch.manual_seed(0)
    model = torch.nn.Linear(4, 3)
    optimizer = torch.optim.AdamW(model.parameters(), lr=0.1)
    model(torch.ones(2, 4)).square().sum().backward()
    optimizer.step()
    return model, optimizer


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    moment = checkpoint.snapshot(*network(), {**STATE, "scaler": None})
    return checkpoint.write(tmp_path_factory.mktemp("run"), moment)


@pytest.fixture
def copy(whole, tmp_path):
    """A function that gives a fresh copy of the checkpoint, at the same place."""

    def make():
        shutil.rmtree(tmp_path / whole.name, ignore_errors=True)
        return shutil.copytree(whole, tmp_path / whole.name)

    return make


@st.composite
def damage(draw, content):
    """The content with a piece of it replaced by other bytes, of another length or none."""
    first = draw(st.integers(0, len(content)))
    last = draw(st.integers(first, min(len(content), first + 16)) | st.just(len(content)))
    return content[:first] + draw(st.binary(max_size=16)) + content[last:]


def loaded(path):
    """What a run would go on with."""
    model, optimizer = network()
    state = checkpoint.read_state(checkpoint.find(path.parent, path.name))
    checkpoint.load(path, model, optimizer, state)
    tensors = [*model.parameters(), *optimizer.state_dict()["state"][0].values()]
    return [tensor.tolist() for tensor in tensors], state


def take_digests_off(path, **fields):
    """Make a checkpoint one of an earlier version, with these ``fields`` in its state."""
    state = json.loads((path / FILE).read_text())
    kept = {k: v for k, v in state.items() if k not in ("files", "digest")}
    (path / FILE).write_text(json.dumps({**kept, "format": WITHOUT_DIGESTS, **fields}))


@pytest.mark.parametrize("name", [*TENSOR_FILES, FILE])
@MANY
@given(data=st.data())
def test_damaged_bytes_are_refused_or_change_no_number(copy, whole, name, data):
    content = (whole / name).read_bytes()
    path = copy()
    (path / name).write_bytes(data.draw(damage(content)))
    try:
        found = loaded(path)
    except UserError:
        return
    assert found == loaded(whole)


@pytest.mark.parametrize("name", TENSOR_FILES)
@MANY
@given(data=st.data())
def test_damaged_tensors_without_digests_are_one_line_or_fit(copy, whole, name, data):
    content = (whole / name).read_bytes()
    header = int.from_bytes(content[:8], "little") + 8
    path = copy()
    take_digests_off(path)
    (path / name).write_bytes(data.draw(damage(content[:header])) + content[header:])
    try:
        loaded(path)
    except UserError:
        return
    shapes = {key: value.shape for key, value in load_file(whole / name).items()}
    assert {key: value.shape for key, value in load_file(path / name).items()} == shapes


@MANY
@given(field=st.sampled_from([*FIELDS, "scaler", "format", "extra"]), value=JSON)
def test_any_state_without_digests_is_one_line_or_of_the_right_form(copy, field, value):
    path = copy()
    take_digests_off(path, **{field: value})
    now = {**STATE, "settings": {"seed": 1}}
    try:
        _, then = loaded(path)
        check_same_run(path, then, now, set())
    except UserError:
        return
    assert {name: then[name] for name in STATE} == STATE


@MANY
@given(content=st.binary(max_size=60) | st.text(alphabet="{}[]:-!&*<>|#'\"\n 0x.e~", max_size=40))
def test_any_recorded_settings_are_one_line_or_named_values(tmp_path, content):
    text = content if isinstance(content, bytes) else content.encode()
    (tmp_path / "config.yaml").write_bytes(text)
    try:
        found, lines = recorded(str(tmp_path)), ()
    except UserError as error:
        found, lines = {}, error.mistakes
    assert isinstance(found, dict)
    assert not [line for line in lines if "\n" in line]


@MANY
@given(data=st.data())
def test_damaged_metrics_are_one_line_or_keep_their_first_records(tmp_path, data):
    path = tmp_path / "metrics.jsonl"
    lines = [json.dumps({"step": step, "loss": step / 3}) + "\n" for step in range(1, 6)]
    path.write_bytes(data.draw(damage("".join(lines).encode())))
    try:
        mend_metrics(path)
    except UserError:
        return
    assert all(isinstance(record["step"], int) for record in Journal(path).read())
