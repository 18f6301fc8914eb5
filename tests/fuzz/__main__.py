"""Run cases of a kind of files, in the folder `tests`:

python -m fuzz configs --cases 10000
python -m fuzz configs --only 4711
"""

from __future__ import annotations

import argparse
import os
import sys
import tempfile
import time
from pathlib import Path

from fuzz.fuzz import run
from fuzz.kinds import KINDS

parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
parser.add_argument("kind", choices=KINDS)
parser.add_argument("--cases", type=int, default=200)
parser.add_argument("--first", type=int, default=0)
parser.add_argument("--only", type=int, help="the number of one case")
options = parser.parse_args()
first, count = (options.first, options.cases) if options.only is None else (options.only, 1)
with tempfile.TemporaryDirectory() as folder:
    os.environ["XDG_CACHE_HOME"] = str(Path(folder) / "cache")
    kind = KINDS[options.kind](Path(folder))
    began = time.process_time()
    faults, read = run(options.kind, kind, range(first, first + count))
    sys.stdout.reconfigure(errors="backslashreplace")
    took = f"{count} cases in {time.process_time() - began:.0f} s of CPU time, {read} were read"
    print(f"{took}; {len(faults)} kinds of fault", *faults, sep="\n")
sys.exit(bool(faults))
