"""The form that pulls the emergency stop."""

from django import forms

from taskruns.models import LONGEST_REASON


class StopForm(forms.Form):
    """The view reads the excluded tasks: other teams' task ids must look the same as missing ones."""

    reason = forms.CharField(
        max_length=LONGEST_REASON,
        help_text="Everyone in the team sees it while the stop is active. It stays in the audit log.",
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )
