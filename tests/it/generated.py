"""Has schemathesis make up requests from a description, and check the answers.

usage: generated.py DIRECTORY URL EXAMPLES SEED PID WARM_UP

DIRECTORY is where it may leave files; EXAMPLES is how many requests it makes up for each route. After
WARM_UP of them it writes the most memory that the process PID ever held, in KiB, to the file "warm".
"""

import os
import sys
from pathlib import Path

from schemathesis.cli import schemathesis

CONFIG = """
# A body that is too large is refused for that before its schema is looked at.
[checks.negative_data_rejection]
expected-statuses = ["400", "404", "405", "409", "413", "415", "421", "429", "5XX"]
"""

# No job comes to most queues, and up to a minute for each such wait is long.
HOOKS = r"""
import os
import re
from itertools import count
from pathlib import Path
import schemathesis

sent = count()

@schemathesis.hook
def before_call(context, case, kwargs):
    if next(sent) == int(os.environ["WARM_UP"]):
        status = Path("/proc", os.environ["PID"], "status").read_text()
        Path("warm").write_text(re.search("VmHWM:\\s+([0-9]+) kB", status)[1])
    waits = case.path == "/v1/leases" and isinstance(case.body, dict)
    if waits and re.fullmatch(r"[0-9]+(ms|s|m)", str(case.body.get("wait"))):
        case.body["wait"] = "0s"
"""

CHECKS = (
    "not_a_server_error,status_code_conformance,content_type_conformance,"
    "response_headers_conformance,response_schema_conformance,negative_data_rejection,"
    "unsupported_method"
)


def main():
    place, url, examples, seed, os.environ["PID"], os.environ["WARM_UP"] = sys.argv[1:]
    os.chdir(place)
    Path("schemathesis.toml").write_text(CONFIG)
    Path("hooks.py").write_text(HOOKS)
    os.environ["SCHEMATHESIS_HOOKS"] = str(Path("hooks.py").resolve())
    words = ["--config-file=schemathesis.toml", "run", url, "--no-color", "--workers=1"]
    words += [f"--max-examples={examples}", f"--seed={seed}", f"--checks={CHECKS}"]
    words += ["--phases=coverage,fuzzing,stateful", "--request-timeout=70"]
    words += ["--generation-database=none", "--suppress-health-check=all"]
    schemathesis(words)


main()
