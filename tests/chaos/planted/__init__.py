"""Settings of a panel with mistakes planted into its cancels, for `test_planted.py`."""

from config.settings import *  # noqa: F403
from config.settings import INSTALLED_APPS

INSTALLED_APPS = [*INSTALLED_APPS, "tests.chaos.planted.mistakes.Mistakes"]
