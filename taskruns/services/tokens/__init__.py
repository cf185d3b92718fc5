"""Tokens of scripts.

- `secret`: the text of a token; `networks`: where it works from
- `access`: what a token may do now; `identify`: which token a secret belongs to
- `actions`: make, replace and revoke; `clock`: expiry, warnings, and makers who leave
- `rate`: how many requests a minute a token may make; `refusals`: records attempts with tokens that do not work
"""
