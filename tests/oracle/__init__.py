"""sharp (npm), the oracle of the conversion: one node process for many files.

node must be on the path and find sharp by NODE_PATH: `npm install --prefix .tools sharp@0.35.5`, then
`export NODE_PATH=$PWD/.tools/node_modules`.
"""

import json
import shutil
import subprocess
from collections.abc import Sequence
from pathlib import Path

SCRIPT = Path(__file__).with_name("convert.js")
MISSING = "node with sharp is not here: npm install sharp, then set NODE_PATH"


def is_here() -> bool:
    """Whether node finds sharp."""
    node = shutil.which("node")
    if node is None:
        return False
    return subprocess.run([node, "-e", "require('sharp')"], capture_output=True, check=False).returncode == 0


def convert(sources: Sequence[Path]) -> dict[Path, bytes | str]:
    """Of each source, the bytes of `sharp(file).jpeg({quality: 95, mozjpeg: true})`, or the text of sharp's refusal.
    The JPEGs stay beside the sources, with `.sharp.jpg` after their names."""
    targets = {source: source.with_name(f"{source.name}.sharp.jpg") for source in sources}
    lines = "\n".join(f"{source}\t{target}" for source, target in targets.items())
    done = subprocess.run(["node", str(SCRIPT)], input=lines, capture_output=True, text=True, check=True)
    refused: dict[str, str] = json.loads(done.stdout)
    return {
        source: refused[str(source)] if str(source) in refused else target.read_bytes()
        for source, target in targets.items()
    }
