"""Forms of channels. An address is never shown again, also not in a form with a mistake: its field renders empty."""

import re
from collections.abc import Iterable
from datetime import datetime
from typing import Any

from django import forms

from taskruns.models import HookAuth

_ADDRESS = re.compile(r"://|whsec_|xox[a-z]-")
Choices = Iterable[tuple[str, str]]
LONGEST_ADDRESS = 20_000  # the service has the sentence for what is too long


class _Empty(forms.TextInput):
    def format_value(self, value: Any) -> str | None:  # noqa: ARG002 - Django's signature
        return None


class _WithoutAddress(forms.TextInput):
    """Renders empty if an address or a secret was typed into the wrong field."""

    def format_value(self, value: Any) -> str | None:
        text = super().format_value(value)
        return None if text is None or _ADDRESS.search(text) else text


class AddressField(forms.CharField):
    def __init__(self, *, required: bool = True, help_text: str = "") -> None:
        super().__init__(
            label="Address",
            required=required,
            max_length=LONGEST_ADDRESS,
            help_text=help_text,
            widget=_Empty(attrs={"autocomplete": "off", "spellcheck": "false"}),
        )


class RuleForm(forms.Form):
    """What a channel reports. `view`: a saved view whose filter is taken instead of `query`."""

    NUMBERS = (
        "min_error_share",
        "usual_percent",
        "running_minutes",
        "pending_minutes",
        "idle_minutes",
        "quiet_minutes",
    )
    KEPT: tuple[str, ...] = ("events", "view", "query", *NUMBERS)

    events = forms.MultipleChoiceField(label="Events", widget=forms.CheckboxSelectMultiple)
    view = forms.ChoiceField(
        label="Runs of a saved view",
        required=False,
        help_text="For events about runs. The filter is copied: later changes of the view do not change the rule.",
    )
    query = forms.CharField(
        label="Or runs that match this filter",
        required=False,
        max_length=LONGEST_ADDRESS,
        help_text="Copy it from the board's address, after the question mark. For example: status=failed&q=prod",
        widget=_WithoutAddress(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )
    min_error_share = forms.IntegerField(
        label="Errors at least (%)",
        min_value=0,
        max_value=100,
        initial=0,
        help_text="For “completed with errors”: the percentage of errors among succeeded and errored items.",
    )
    usual_percent = forms.IntegerField(
        label="Longer than usual (%)",
        min_value=101,
        max_value=10_000,
        initial=200,
        help_text="For “longer than usual”: the percentage of the usual duration of the task's runs.",
    )
    running_minutes = forms.IntegerField(
        label="Running longer than (minutes)", min_value=1, max_value=30_000, initial=60
    )
    pending_minutes = forms.IntegerField(
        label="Pending longer than (minutes)", min_value=1, max_value=30_000, initial=10
    )
    idle_minutes = forms.IntegerField(label="No progress for (minutes)", min_value=1, max_value=30_000, initial=10)
    quiet_minutes = forms.IntegerField(
        label="At most one message every (minutes)",
        min_value=0,
        max_value=24 * 60,
        initial=5,
        help_text="Later messages are combined into one when the time is over. 0 sends each at once.",
    )

    def __init__(self, *args: Any, events: Choices, views: Choices, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["events"].choices = list(events)  # type: ignore[attr-defined]
        self.fields["view"].choices = [("", "All runs, or the filter below"), *views]  # type: ignore[attr-defined]

    def clean(self) -> dict[str, Any]:
        given = super().clean() or {}
        if given.get("view") and given.get("query"):
            self.add_error("query", "Choose a saved view or enter a filter, not both.")
        return given


class NewChannelForm(RuleForm):
    KEPT = ("name", "kind", *RuleForm.KEPT)

    name = forms.CharField(
        max_length=LONGEST_ADDRESS,
        help_text="For example “On call”.",
        widget=_WithoutAddress(attrs={"autocomplete": "off"}),
    )
    kind = forms.ChoiceField(label="Kind")
    address = AddressField(
        help_text="A webhook URL, email addresses separated by commas, or an integration key of PagerDuty. It is "
        "encrypted and never shown again."
    )
    field_order = ("name", "kind", "address", "events", "view", "query", *RuleForm.NUMBERS)

    def __init__(self, *args: Any, kinds: Choices, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.fields["kind"].choices = list(kinds)  # type: ignore[attr-defined]


class ChannelForm(forms.Form):
    KEPT = ("name", "is_on")

    name = forms.CharField(max_length=LONGEST_ADDRESS, widget=_WithoutAddress(attrs={"autocomplete": "off"}))
    address = AddressField(
        required=False, help_text="Leave empty to keep the address. A signing secret stays the same."
    )
    is_on = forms.BooleanField(label="Send messages", required=False)


class HookSecretForm(forms.Form):
    KEPT = ("auth",)

    auth = forms.ChoiceField(label="Arize proves its requests by", choices=HookAuth.choices)
    secret = forms.CharField(
        label="Secret",
        max_length=LONGEST_ADDRESS,
        help_text="The signing secret that Arize showed once, or the Bearer token that you entered there. It is "
        "encrypted and never shown again.",
        widget=_Empty(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )


class MuteForm(forms.Form):
    """`hours`: 1 or 8. Without it, `until`, in the person's zone."""

    hours = forms.TypedChoiceField(choices=[("1", "1"), ("8", "8")], coerce=int, required=False, empty_value=None)
    until = forms.DateTimeField(required=False, input_formats=["%Y-%m-%dT%H:%M", "%Y-%m-%dT%H:%M:%S"])

    cleaned_data: dict[str, Any]

    @property
    def moment(self) -> datetime | None:
        found: datetime | None = self.cleaned_data["until"]
        return found
