"""What a person types to stop a team."""

from django import forms

from taskruns.models import LONGEST_REASON


class StopForm(forms.Form):
    """Which tasks are left out is the view's business: the ids of others must not be told apart from missing ones."""

    reason = forms.CharField(
        max_length=LONGEST_REASON,
        help_text="Everyone in the team sees it while the stop is active. It stays in the audit log.",
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )
