"""Files of the panel are for its own account only.

Every entry point calls `only_for_us` first, before it creates a file. Database, queue, logs and static files then get
mode 600, and their directories 700, whatever umask the shell or the service manager sets.
"""

import os


def only_for_us() -> None:
    os.umask(0o077)
