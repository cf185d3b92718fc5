"""gunicorn's own log lines (start, stop, a worker timeout) as JSON, like all others of the process."""

from gunicorn.config import Config
from gunicorn.glogging import Logger


class JsonLogger(Logger):  # type: ignore[misc]
    """Passes its lines to the root logger, which `config.logs` configures."""

    def setup(self, cfg: Config) -> None:
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True
