"""``python -m swiftalign.worker RUN_FOLDER``: loads everything, then trains.

Python's garbage collector rests while packages are loaded: almost nothing of them is ever garbage, and looking through
it again and again takes a third of the time. Afterwards it leaves them out.
"""

import gc
import sys

if __name__ == "__main__":
    gc.disable()
    from swiftalign.worker.entry import main

    gc.freeze()
    gc.enable()
    raise SystemExit(main(sys.argv[1:]))
