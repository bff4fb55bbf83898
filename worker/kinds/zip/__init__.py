"""Files become an archive.

task        one task: a list of members into an object
archive     the archive as it is written: README.txt, files, manifest.json
packing     files read and packed, on threads
codec       deflate in blocks
container   the ZIP format
manifest    README.txt and manifest.json
names       paths that are safe wherever they are unpacked
source      what goes in, and reading it
folder, stored   members of a folder, of a prefix, of a list of keys
multipart   the archive on its way into an object, in parts
state       how far it is, for who goes on
"""

from worker.kinds.base import Context, Outcome


def run(context: Context) -> Outcome:
    """Writes the archive of a list of files. Raises WorkerError with the sentence to report."""
    from worker.kinds.zip.task import run as run_task  # with it the codecs, which other kinds need not load

    return run_task(context)
