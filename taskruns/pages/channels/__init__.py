"""Channels: the words of messages (`messages`), and their form for each kind of channel (`kinds`)."""
