"""Tokens of scripts.

- `secret`: the text of one; `networks`: from where it works
- `access`: what one may do now; `identify`: whose a given secret is
- `actions`: what people do with them; `clock`: what time brings
- `refusals`: records those that do not work
"""
