from typing import Any

from django.core.management.base import CommandError, CommandParser

from taskruns import jobs
from taskruns.audit import Actor
from taskruns.models import Delivery, DeliveryState
from taskruns.pages.channels.troubles import trouble_of
from taskruns.services import channels

from ._base import PanelCommand, team_called


class Command(PanelCommand):
    help = "Send a test message to a channel now. Exit 1 if it could not be sent."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("team", help="the team's slug")
        parser.add_argument("name", help="the channel's name")

    def handle(self, *_args: Any, team: str, name: str, **_options: Any) -> None:
        found = team_called(team)
        channel = channels.find_live(found, name)
        if channel is None:
            raise CommandError(f"{found.slug} has no channel of this name. Check it on the team's page of channels.")
        test = channels.send_test(channel, by=Actor.command(), is_claimed=True)
        jobs.send_message(test.pk)
        sent = Delivery.objects.get(pk=test.pk)
        if sent.state != DeliveryState.SENT:
            raise CommandError(f"The test message was not sent. {trouble_of(sent.failure, sent.status)}")
        self.say(f"The channel {channel.name} took the test message.")
