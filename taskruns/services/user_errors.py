"""Errors about a person's input. When one is raised, nothing was written and nothing was sent."""

RESTING = (
    "This panel was restored from a backup and not adopted yet: bulk cancels and emergency stops do not run. Cancel "
    "runs one by one, or ask your administrator to run `manage.py restore --adopt`."
)


class UserError(Exception):
    """`sentence` says what is wrong and what to do. `field`: the form field that it is about, if any.

    There is a subclass only where a caller must distinguish it.
    """

    def __init__(self, sentence: str, *, field: str = "") -> None:
        self.sentence, self.field = sentence, field
        super().__init__(sentence)
