"""Arize's own API under `/v2/`, for scripts with a token instead of an API key.

`operations` says what is offered, `views` answers, `answers` puts the outcome of a cancel and of a start into Arize's
terms. Everything that is not offered is refused: nothing passes that is not listed.
"""
