"""gunicorn's own lines (starting, stopping, a worker that hangs) as JSON, like all others of the process."""

from gunicorn.config import Config
from gunicorn.glogging import Logger


class JsonLogger(Logger):  # type: ignore[misc]
    """Hands its lines to the root logger, which `config.logs` has set up."""

    def setup(self, cfg: Config) -> None:
        super().setup(cfg)
        self.error_log.handlers.clear()
        self.error_log.propagate = True
