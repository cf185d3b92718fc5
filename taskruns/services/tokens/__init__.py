"""Tokens of scripts. `secret`: the text of one; `access`: what one may do now; `identify`: whose a given secret is;
`refusals`: records those that do not work.
"""
