"""What a person types to stop a team."""

from django import forms


class StopForm(forms.Form):
    """Which tasks are left out is the view's business: the ids of others must not be told apart from missing ones."""

    reason = forms.CharField(
        max_length=512,
        help_text="Everybody in the team reads it while the stop holds; it stays in the audit log.",
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )
