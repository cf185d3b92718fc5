"""What a service refuses because of what a person gave it. Nothing was written then, and nothing was sent."""


class UserError(Exception):
    """`sentence` says what is wrong and what to do; `field` is the form field that it is about, if any.

    A subclass exists only where a caller has to tell it from the others.
    """

    def __init__(self, sentence: str, *, field: str = "") -> None:
        self.sentence, self.field = sentence, field
        super().__init__(sentence)
