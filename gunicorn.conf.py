"""The web server: 2 processes of 8 threads on loopback at SITE_URL's port (a proxy with TLS stands before it)."""

import sys

from django.core.exceptions import ImproperlyConfigured

from config import environment as env

try:
    # Here, before there is a worker: a mistake in the environment is one sentence, not a worker's traceback.
    from config import settings as _settings
    from config.gunicorn_logs import JsonLogger

    # Behind a proxy the public port is the proxy's: the panel itself then listens on 8000. BIND overrides both.
    bind = env.text("BIND", f"127.0.0.1:{_settings.SITE.port if _settings.SITE.loopback else 8000}")
    workers = env.integer("WEB_WORKERS", 2, at_least=1, at_most=64)
except ImproperlyConfigured as error:
    sys.exit(f"Cannot start: {error}")

worker_class = "gthread"
threads = 8
timeout = 60
graceful_timeout = 5
logger_class = JsonLogger
# Room for every filter at its longest, encoded; what is longer still gets gunicorn's own 414.
limit_request_line = 8190
# gunicorn would believe X-Forwarded-Proto from loopback by itself; only TRUSTED_PROXIES decides that here.
forwarded_allow_ips = "*" if _settings.TRUSTED_PROXIES else ""
# Nor may a header say under which path the panel lives.
forwarder_headers = ""
# Its default is one socket for all gunicorns of a user: nobody here uses it, and a second panel would take it over.
control_socket_disable = True
