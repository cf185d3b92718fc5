"""Web server settings: by default 2 processes with 8 threads each, listening on loopback (behind a TLS proxy)."""

import sys

from django.core.exceptions import ImproperlyConfigured

from config import environment as env
from config import private_files

private_files.only_for_us()
try:
    # Load settings before gunicorn starts a worker: a bad variable is then one line, not a worker's traceback.
    from config import settings as _settings
    from config import worker_watch
    from config.gunicorn_logs import JsonLogger

    # Behind a proxy, SITE_URL's port is the proxy's, so the panel listens on 8000. BIND overrides both.
    bind = env.text("BIND", f"127.0.0.1:{_settings.SITE.port if _settings.SITE.loopback else 8000}")
    workers = env.integer("WEB_WORKERS", 2, at_least=1, at_most=64)
    # Longer than the usual 60 s of load balancers: one that reuses a connection just as it is closed answers with 502.
    keepalive = env.integer("KEEPALIVE", 75, at_least=1, at_most=3_600)
except ImproperlyConfigured as error:
    sys.exit(f"Cannot start: {error}")

post_worker_init = worker_watch.start

worker_class = "config.web_worker.Worker"
threads = 8
# With files and databases, well below the usual limit of 1,024 open files.
worker_connections = 400
timeout = 60
graceful_timeout = 5
logger_class = JsonLogger
# Long enough for every filter at its maximum length, encoded. A longer request line gets gunicorn's own 414.
limit_request_line = 8190
# By default gunicorn trusts X-Forwarded-Proto from loopback. Here only TRUSTED_PROXIES decides.
forwarded_allow_ips = "*" if _settings.TRUSTED_PROXIES else ""
# No header may set the path under which the panel is served.
forwarder_headers = ""
# Not used. By default all gunicorns of one user share its socket, so a second panel would take it over.
control_socket_disable = True
