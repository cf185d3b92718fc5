"""The form that pulls the emergency stop."""

from django import forms

from taskruns.models import LONGEST_REASON


class StopForm(forms.Form):
    """The view reads the excluded tasks itself, because a form error must not reveal which ids exist in other teams."""

    reason = forms.CharField(
        max_length=LONGEST_REASON,
        help_text="The whole team sees it while the stop is active. It stays in the audit log.",
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )
