"""`python -m tests.stand_ins.fly`."""

import sys

from tests.stand_ins.fly.command import main

if __name__ == "__main__":
    sys.exit(main())
