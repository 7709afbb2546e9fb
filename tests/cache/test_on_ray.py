"""The table of a pool of Ray's actors, of which one is killed, is that of a plain run."""

import os
import signal
from pathlib import Path

import pytest

from diffdpo.cache.tables import table
from diffdpo.errors import EXTRAS, UserError
from tests.cache.test_claims import contents
from tests.cache.test_tables import FEATURES, KEY, squares


def make_compute(marker):
    """What computes squares in an actor; the first that comes to row 32 kills its process."""

    def make():
        def compute(span):
            for number in span:
                if number == 32 and not marker.exists():
                    marker.write_text(str(os.getpid()))
                    os.kill(os.getpid(), signal.SIGKILL)
                yield {"square": number**2}

        return compute

    return make


@pytest.mark.slow
def test_two_workers_of_which_one_is_killed_make_the_table_of_a_plain_run(tmp_path, monkeypatch):
    ray = pytest.importorskip("ray")
    from diffdpo.cache.on_ray import table_on_ray

    # Ray lets its workers wait for whatever else runs, on a busy machine for hours.
    monkeypatch.setenv("RAY_worker_niceness", "0")
    root = Path(__file__).parents[2]
    environment = {"env_vars": {"PYTHONPATH": f"{root}:{os.environ.get('PYTHONPATH', '')}"}}
    ray.init(
        num_cpus=2,
        include_dashboard=False,
        object_store_memory=80 * 2**20,
        runtime_env=environment,
        logging_level="ERROR",
    )
    try:
        marker = tmp_path / "killed"
        made = table_on_ray(
            str(tmp_path / "ray"), KEY, FEATURES, 100, make_compute(marker), workers=2
        )
    finally:
        ray.shutdown()
    assert marker.exists()
    assert made["square"][:] == [number**2 for number in range(100)]
    squares(tmp_path / "plain")
    assert contents(tmp_path / "ray") == contents(tmp_path / "plain")


def test_without_ray_a_line_says_what_to_install(tmp_path, monkeypatch):
    import sys

    from diffdpo.cache.on_ray import table_on_ray

    monkeypatch.setitem(sys.modules, "ray", None)
    with pytest.raises(UserError, match="ray"):
        table_on_ray(str(tmp_path), KEY, FEATURES, 100, lambda: table, workers=1)
    assert "diffdpo[ray]" in EXTRAS["ray"]
