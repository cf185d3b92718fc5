"""Forms of tokens. They hold no secret: a token is made by the panel and shown once."""

import re
from collections.abc import Iterable
from typing import Any

from django import forms

from taskruns.models import TokenRole
from taskruns.models.tokens import LONGEST_LIFE

Choices = Iterable[tuple[str, str]]
LONGEST_TYPED = 5_000  # the service has the sentence for what is too long
HOURS = (("0", "not at all: it stops now"), ("1", "1 hour"), ("24", "24 hours"), ("168", "7 days"))


def days_field() -> forms.IntegerField:
    return forms.IntegerField(
        label="Expires in (days)",
        min_value=1,
        max_value=LONGEST_LIFE.days,
        initial=90,
        help_text="At most a year. Managers are warned 7 days and 1 day before.",
    )


class _KeyForm(forms.Form):
    """`keys`: the team's API keys, as (id, name and region) pairs."""

    credential = forms.ChoiceField(
        label="API key",
        required=False,
        help_text="The panel sends the token's requests to Arize with this key. Choose one if the team has several.",
    )

    def __init__(self, *args: Any, keys: Choices, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        known = list(keys)
        # Without a choice, the gateway refuses the requests of a team with several keys.
        without = "The team's only key" if len(known) <= 1 else "None: requests are refused while there are several"
        self.fields["credential"].choices = [("", without), *known]  # type: ignore[attr-defined]


class TokenForm(_KeyForm):
    KEPT = ("name", "role", "days", "credential", "networks")

    name = forms.CharField(
        max_length=LONGEST_TYPED,
        help_text="Which script uses it, for example “Airflow, nightly”. It is shown with every cancel by the script.",
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )
    role = forms.TypedChoiceField(
        choices=[
            (TokenRole.VIEWER.value, "viewer: read tasks and runs"),
            (TokenRole.OPERATOR.value, "operator: also cancel and start runs"),
        ],
        coerce=TokenRole,
        initial=TokenRole.VIEWER.value,
    )
    days = days_field()
    networks = forms.CharField(
        label="Only from these networks",
        required=False,
        max_length=LONGEST_TYPED,
        help_text="One address or network per line, such as 192.0.2.7, 192.0.2.0/24 or 2001:db8::/32. Leave it "
        "empty to allow all.",
        widget=forms.Textarea(attrs={"rows": 3, "autocomplete": "off", "spellcheck": "false"}),
    )
    field_order = ("name", "role", "days", "credential", "networks")

    def clean_networks(self) -> tuple[str, ...]:
        return tuple(part for part in re.split(r"[\s,;]+", self.cleaned_data["networks"]) if part)


class ReplaceTokenForm(_KeyForm):
    KEPT = ("hours", "days", "credential")

    hours = forms.TypedChoiceField(
        label="The old token keeps working for",
        choices=HOURS,
        coerce=int,
        initial="24",
        help_text="Long enough to give the new token to every script that uses the old one.",
    )
    days = days_field()
    field_order = ("hours", "days", "credential")
