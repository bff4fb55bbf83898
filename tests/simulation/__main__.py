"""python -m tests.simulation: seeds by the thousand, or one with its transcript. `--help` says how."""

from tests.simulation.command import main

if __name__ == "__main__":
    main()
