"""python -m tests.corpus FOLDER: writes the corpus there."""

import sys
from pathlib import Path

from tests.corpus import entries, file_name

folder = Path(sys.argv[1])
folder.mkdir(parents=True, exist_ok=True)
for entry in entries():
    (folder / file_name(entry)).write_bytes(entry.data)
sys.stdout.write(f"{len(entries())} files in {folder}\n")
