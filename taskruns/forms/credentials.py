"""Forms for API keys. A key is never shown again: its field renders empty whatever was posted."""

from typing import Any

from django import forms
from django.conf import settings

from taskruns.arize.endpoints import REGIONS, EndpointRefused, check_endpoint


class KeyField(forms.CharField):
    """One word to paste. The service decides what a valid key looks like."""

    def __init__(self) -> None:
        attrs = {"autocomplete": "off", "spellcheck": "false"}
        super().__init__(
            label="API key",
            help_text="A service key of Arize. It is encrypted when saved and never shown again.",
            widget=forms.PasswordInput(attrs=attrs, render_value=False),
        )


class ExpiryField(forms.DateField):
    def __init__(self) -> None:
        super().__init__(
            label="Expires on",
            required=False,
            help_text="Leave empty if the key does not expire. If Arize reveals the date, the test fills it in.",
            widget=forms.DateInput(format="%Y-%m-%d", attrs={"type": "date"}),
            input_formats=["%Y-%m-%d"],
        )


class CredentialForm(forms.Form):
    name = forms.CharField(
        max_length=100,
        help_text="For example “Production, Europe”.",
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )
    endpoint = forms.CharField(
        label="Region",
        max_length=300,
        initial=REGIONS[0].url,
        help_text="Where Arize issued the key. A key of another region is rejected.",
    )
    key = KeyField()
    expires_on = ExpiryField()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        own = [(endpoint.url, f"{endpoint.label} ({endpoint.url})") for endpoint in REGIONS]
        extra = [(url, url) for url in settings.ARIZE_ENDPOINTS]
        self.fields["endpoint"].widget = forms.Select(choices=own + extra)

    def clean_endpoint(self) -> str:
        """Not a ChoiceField: the sentence about a refused address comes from the one place that decides it."""
        try:
            return check_endpoint(self.cleaned_data["endpoint"], extra=settings.ARIZE_ENDPOINTS)
        except EndpointRefused as error:
            raise forms.ValidationError(str(error)) from None


class ReplaceForm(forms.Form):
    key = KeyField()
    expires_on = ExpiryField()
