"""Forms for API keys. A key is never shown again: its field always renders empty."""

from typing import Any

from django import forms
from django.conf import settings

from taskruns.arize.endpoints import REGIONS, EndpointRefused, check_endpoint


class KeyField(forms.CharField):
    """The service checks what a key may look like."""

    def __init__(self, **more: str) -> None:
        attrs = {"autocomplete": "off", "spellcheck": "false"} | more
        super().__init__(
            label="API key",
            help_text="A service key from Arize. It is encrypted when saved and never shown again.",
            widget=forms.PasswordInput(attrs=attrs, render_value=False),
        )


class ExpiryField(forms.DateField):
    def __init__(self) -> None:
        super().__init__(
            label="Expires on",
            required=False,
            help_text="Leave empty if it does not expire. If Arize tells the key its expiry date, a test fills it in.",
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
        help_text="Where Arize issued the key. Arize rejects a key in any other region.",
    )
    key = KeyField()
    expires_on = ExpiryField()

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        own = [(endpoint.url, f"{endpoint.label} ({endpoint.url})") for endpoint in REGIONS]
        extra = [(url, url) for url in settings.ARIZE_ENDPOINTS]
        self.fields["endpoint"].widget = forms.Select(choices=own + extra)

    def clean_endpoint(self) -> str:
        """Not a ChoiceField, so that a refused address gets the sentence of `check_endpoint`."""
        try:
            return check_endpoint(self.cleaned_data["endpoint"], extra=settings.ARIZE_ENDPOINTS)
        except EndpointRefused as error:
            raise forms.ValidationError(str(error)) from None


class ReplaceForm(forms.Form):
    key = KeyField(autofocus="autofocus")
    expires_on = ExpiryField()
