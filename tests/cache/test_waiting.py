"""Two processes of a run of which one takes longer than their group waits."""

import sys

from tests.processes import run_two

# The group gives up after 2 seconds; each of the three things takes one process longer, once.
RUN = """
import sys, time
from datetime import timedelta
from accelerate import Accelerator
from accelerate.utils import InitProcessGroupKwargs
from diffdpo.cache import tables
from diffdpo.cache.tables import is_complete, table
from diffdpo.engine.console import rank
from tests.cache.test_tables import FEATURES, KEY

limit = InitProcessGroupKwargs(timeout=timedelta(seconds=2))
accelerator = Accelerator(cpu=True, kwargs_handlers=[limit])
if rank() == 1:
    time.sleep(3)  # it reads its data slowly
check, looked = tables.state_of, []
def slowly(path):
    if rank() == 0 and not looked and "000000016" in path.name:
        looked.append(path)
        time.sleep(3)  # its disk is slow
    return check(path)
def compute(span):
    if span.start == 0:
        time.sleep(3)
    yield from ({"square": number**2} for number in span)
for read in (slowly, check):
    tables.state_of = read
    rows = table(sys.argv[1], KEY, FEATURES, 20, compute, accelerator)["square"][:]
    assert rows == [number**2 for number in range(20)]
assert is_complete(sys.argv[1], KEY, 20, accelerator)
print("done", rank())
"""


def test_a_slow_process_is_waited_for(tmp_path):
    found = run_two([sys.executable, "-c", RUN, tmp_path])
    assert found.returncode == 0, found.stderr
    assert sorted(line for line in found.stdout.splitlines() if line.startswith("done")) == [
        "done 0",
        "done 1",
    ]
