"""The WSGI entry point. Loads the URLs now and not at the first request, so that a view without a declared action
stops the start.
"""

import os
import sys

from django.core.exceptions import ImproperlyConfigured
from django.core.wsgi import get_wsgi_application
from django.urls import get_resolver

from config import private_files

private_files.only_for_us()
os.environ.setdefault("DJANGO_SETTINGS_MODULE", "config.settings")
application = get_wsgi_application()

from taskruns.services import readiness  # noqa: E402 - models need the settings

try:
    readiness.refuse_start()
except ImproperlyConfigured as error:
    sys.stderr.write(f"Cannot start: {error}\n")
    sys.exit(3)  # with this exit code, gunicorn stops instead of starting another worker
get_resolver().url_patterns  # noqa: B018 - reading the property imports every view

from taskruns.audit.anchors import check_anchor_file  # noqa: E402 - needs the apps

check_anchor_file()
