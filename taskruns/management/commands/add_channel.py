from typing import Any

from django.core.management.base import CommandError, CommandParser
from django.views.decorators.debug import sensitive_variables

from taskruns.audit import Actor
from taskruns.models import ChannelKind
from taskruns.models.channels import SUGGESTED
from taskruns.services import channels, key_ring
from taskruns.services.channels.actions import Wanted

from ._base import PanelCommand, secret_from_stdin, team_called


class Command(PanelCommand):
    help = "Add a channel, which tells people about a team's runs and keys. The address is the first line of stdin."

    def add_arguments(self, parser: CommandParser) -> None:
        parser.add_argument("team", help="the team's slug")
        parser.add_argument("name", help='a name for the channel, for example "On call"')
        parser.add_argument("--kind", required=True, help=f"one of {', '.join(ChannelKind.values)}")
        parser.add_argument("--address-stdin", action="store_true", help="read the address from stdin (required)")
        parser.add_argument("--events", help="codes, separated by commas; without it, the suggested ones")
        parser.add_argument("--filter", default="", help='a board filter, for example "status=failed&q=prod"')
        parser.add_argument("--quiet-minutes", type=int, default=0, help="sum up what follows a message for so long")

    @sensitive_variables("address")
    def handle(
        self,
        *_args: Any,
        team: str,
        name: str,
        kind: str,
        address_stdin: bool,
        events: str | None,
        quiet_minutes: int,
        **options: Any,
    ) -> None:
        if not address_stdin:
            raise CommandError("The address must come from stdin. Add --address-stdin and send the address as line 1.")
        if problem := key_ring.problem():
            raise CommandError(problem, returncode=2)
        codes = tuple(code.strip() for code in events.split(",") if code.strip()) if events is not None else SUGGESTED
        wanted = Wanted(tuple(map(str, codes)), options["filter"], quiet_minutes)
        found, address = team_called(team), secret_from_stdin("address")
        added = channels.add(found, name=name, kind=kind, address=address, wanted=wanted, by=Actor.command())
        self.say(
            f"Channel {added.channel.name} added to {found.slug}. To try it: manage.py test_channel {found.slug} ..."
        )
        if added.signing:
            self.say("Its signing secret, which is never shown again:")
            self.say(added.signing)
