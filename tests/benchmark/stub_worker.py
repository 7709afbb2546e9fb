"""A process that answers as ``scripts.benchmark.losses.worker`` does, and loads nothing: it tells
its number, fails or ends where it is asked to."""

import json
import os
import sys

if __name__ == "__main__":
    assert json.loads(sys.argv[1])["steps"] == 7
    with os.fdopen(int(sys.argv[2]), "w") as answers:
        for line in sys.stdin:
            request = json.loads(line)
            if request["loss"] == "ends":
                os._exit(3)
            failed = {"failed": "ValueError: no"} if request["loss"] == "fails" else {}
            answers.write(json.dumps({"process": os.getpid(), **request, **failed}) + "\n")
            answers.flush()
