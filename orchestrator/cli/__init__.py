"""The command line: `main` and one file per group of commands. It imports no ray."""
