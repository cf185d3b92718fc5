"""Files of the panel are for its own account only.

The first thing at every entry point, before any file is made: database, queue, logs and static files get mode 600, and
their directories 700, whatever the shell or the service manager allows.
"""

import os


def only_for_us() -> None:
    os.umask(0o077)
