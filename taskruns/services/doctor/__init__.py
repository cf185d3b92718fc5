"""The checks of `manage.py doctor`: `round` runs them side by side within a few seconds; `database`, `files` and
`reach` hold them. They only look: nothing is written, nothing is sent to Arize with a key, and no mail is sent.

Nothing is imported here, because `round` must work while the settings do not.
"""
