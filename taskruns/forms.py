"""What people type about keys, teams and themselves. Forms read; services decide.

A key or a password is never shown again: their fields render empty whatever was posted.
"""

from typing import Any
from zoneinfo import available_timezones

from django import forms
from django.conf import settings
from django.http import HttpRequest, QueryDict

from taskruns.arize.endpoints import REGIONS, EndpointRefused, check_endpoint
from taskruns.models import SiteRole, TeamRole, Theme

LONGEST_PASSWORD = 1_000


def posted(request: HttpRequest) -> QueryDict | None:
    """What binds a form: the body of a POST, an empty one too."""
    return request.POST if request.method == "POST" else None


def complain(form: forms.Form, sentence: str, *, field: str = "") -> None:
    """Show a service's sentence at the field it is about, or above the form when the form has no such field."""
    form.add_error(field if field in form.fields else None, sentence)


class StopForm(forms.Form):
    """Which tasks are left out is the view's business: the ids of others must not be told apart from missing ones."""

    reason = forms.CharField(
        max_length=512,
        help_text="Everybody in the team reads it while the stop holds; it stays in the audit log.",
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )


class KeyField(forms.CharField):
    """One word to paste; what exactly a key may look like is the service's business."""

    def __init__(self) -> None:
        attrs = {"autocomplete": "off", "spellcheck": "false"}
        super().__init__(
            label="API key",
            help_text="A service key of Arize. It is encrypted when saved, and nobody sees it again.",
            widget=forms.PasswordInput(attrs=attrs, render_value=False),
        )


class ExpiryField(forms.DateField):
    def __init__(self) -> None:
        super().__init__(
            label="Expires on",
            required=False,
            help_text="If the key has an end. Where the key may ask Arize for it, its test fills it in.",
            widget=forms.DateInput(format="%Y-%m-%d", attrs={"type": "date"}),
            input_formats=["%Y-%m-%d"],
        )


class PasswordField(forms.CharField):
    def __init__(self, label: str, *, help_text: str = "") -> None:
        super().__init__(
            label=label,
            strip=False,
            max_length=LONGEST_PASSWORD,
            help_text=help_text,
            widget=forms.PasswordInput(attrs={"autocomplete": "new-password"}, render_value=False),
        )


class RoleField(forms.TypedChoiceField):
    def __init__(self) -> None:
        choices = [(role.value, role.value) for role in TeamRole]
        super().__init__(label="Role", choices=choices, coerce=TeamRole, initial=TeamRole.VIEWER)


class EmailField(forms.EmailField):
    def __init__(self, label: str = "E-mail", *, required: bool = True, help_text: str = "") -> None:
        widget = forms.EmailInput(attrs={"autocomplete": "off"})
        super().__init__(label=label, max_length=254, required=required, help_text=help_text, widget=widget)


class CredentialForm(forms.Form):
    name = forms.CharField(
        max_length=100,
        help_text="How the team speaks of it, like “Production, Europe”.",
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


class TeamForm(forms.Form):
    name = forms.CharField(max_length=100, widget=forms.TextInput(attrs={"autocomplete": "off"}))
    slug = forms.CharField(
        max_length=50,
        required=False,
        help_text="The team's part of every address; it never changes. Empty: made of the name.",
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )
    manager = EmailField("First manager's e-mail", required=False, help_text="They add the others and the keys.")


class SettingsForm(forms.Form):
    name = forms.CharField(max_length=100, widget=forms.TextInput(attrs={"autocomplete": "off"}))


class MemberForm(forms.Form):
    email = EmailField(
        help_text="Somebody with an account is added at once; for anybody else you get a link to pass on."
    )
    role = RoleField()


class RoleForm(forms.Form):
    role = RoleField()


class AcceptForm(forms.Form):
    name = forms.CharField(
        label="Your name", max_length=100, required=False, widget=forms.TextInput(attrs={"autocomplete": "name"})
    )
    password1 = PasswordField("Password", help_text="At least 12 characters, and not one that everybody uses.")
    password2 = PasswordField("Password again")

    def clean(self) -> dict[str, Any]:
        cleaned = self.cleaned_data
        if "password1" in cleaned and "password2" in cleaned and cleaned["password1"] != cleaned["password2"]:
            self.add_error("password2", "The two passwords are not the same.")
        return cleaned


class SavedViewForm(forms.Form):
    """`query` and `replace` are a new view's only: the filter of a saved one is changed by saving over it."""

    name = forms.CharField(max_length=100, widget=forms.TextInput(attrs={"autocomplete": "off"}))
    shared = forms.BooleanField(label="Share it with the team", required=False)


class NewViewForm(SavedViewForm):
    query = forms.CharField(max_length=8_000, required=False, widget=forms.HiddenInput)
    replace = forms.BooleanField(required=False, widget=forms.HiddenInput)


class DefaultViewForm(forms.Form):
    """Whose board opens with a view; `off` takes that back."""

    whose = forms.ChoiceField(choices=[("me", "me"), ("team", "the team")], required=False)
    off = forms.BooleanField(required=False)


def _zones() -> list[tuple[str, str]]:
    return [(zone, zone.replace("_", " ")) for zone in sorted(available_timezones())]


class ProfileForm(forms.Form):
    time_zone = forms.ChoiceField(
        label="Time zone", choices=_zones, help_text="Times on pages are in this zone; exports are in UTC."
    )
    theme = forms.TypedChoiceField(
        label="Colours", choices=Theme.choices, coerce=Theme, empty_value=Theme.SYSTEM, required=False
    )
    shortcuts = forms.BooleanField(
        label="Keyboard shortcuts", required=False, help_text="Single keys act on the board; ? lists them."
    )


class SiteRoleForm(forms.Form):
    """`none` is spelled out, so that an empty form takes nobody's role away."""

    CHOICES = (("none", "none"), *((role.value, role.label) for role in SiteRole if role.value))
    role = forms.TypedChoiceField(choices=CHOICES, coerce=lambda value: SiteRole("" if value == "none" else value))


class PeopleFilterForm(forms.Form):
    q = forms.CharField(max_length=254, required=False)
    after = forms.CharField(max_length=254, required=False)
