"""`make run`: run web and worker of the deployment in `.env` in this terminal until Ctrl-C."""

import os
import sys
from contextlib import suppress

from django.core.exceptions import ImproperlyConfigured

from config import environment, private_files
from config.processes import Processes, Signals, Stopped, base_environment, is_taken

NO_ENV_FILE = "There is no .env file. Create one: .venv/bin/python manage.py new_secrets > .env (see the README)."


def main() -> int:
    """Returns the exit code: 0 after Ctrl-C, 1 with an error on stderr."""
    private_files.only_for_us()
    signals = Signals()
    try:
        return _run(signals)
    except ImproperlyConfigured as error:
        return _refuse(f"Cannot start: {error}")
    except Stopped:
        with suppress(OSError):  # the terminal may be closed
            sys.stdout.write("\nStopped.\n")
        return 0


def _run(signals: Signals) -> int:
    named = {"ENV_FILE", "SECRET_KEY", "SECRET_KEY_FILE"} & set(os.environ)
    if not named and not (environment.BASE_DIR / ".env").is_file():
        return _refuse(NO_ENV_FILE)
    environment.load_env_file()
    site = environment.site()
    if site.loopback and is_taken(site.port):
        return _refuse(f"Port {site.port} is in use. Stop the other process, or choose another port in SITE_URL.")
    _set_up()
    # Unlike the demo, a real deployment may take its variables from the shell too.
    with Processes({**os.environ, **base_environment()}, signals) as processes:
        processes.start("worker")
        processes.start("web")
        sys.stdout.write(f"Taskruns is running at {site.url}/. Press Ctrl-C to stop.\n")
        sys.stdout.flush()
        name = processes.wait_for_exit()
    return _refuse(f"The {name} process exited, so everything was stopped. Its last lines above say why.")


def _set_up() -> None:
    os.environ["DJANGO_SETTINGS_MODULE"] = "config.settings"
    import django
    from django.core.management import call_command

    django.setup()
    call_command("migrate", interactive=False, verbosity=1)
    call_command("collectstatic", interactive=False, verbosity=0)


def _refuse(sentence: str) -> int:
    sys.stderr.write(f"{sentence}\n")
    return 1


if __name__ == "__main__":
    sys.exit(main())
