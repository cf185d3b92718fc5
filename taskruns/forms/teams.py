"""Forms for teams and their members."""

from typing import Any

from django import forms

from .fields import EmailField, PasswordField, RoleField


class TeamForm(forms.Form):
    name = forms.CharField(max_length=100, widget=forms.TextInput(attrs={"autocomplete": "off", "autofocus": True}))
    slug = forms.CharField(
        max_length=50,
        required=False,
        help_text="Part of the team's URLs. It cannot be changed later. Leave empty to make one from the name.",
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )
    manager = EmailField("First manager's email", required=False, help_text="They add other members and API keys.")


class SettingsForm(forms.Form):
    name = forms.CharField(max_length=100, widget=forms.TextInput(attrs={"autocomplete": "off", "autofocus": True}))


class MemberForm(forms.Form):
    email = EmailField(
        help_text="A person with an account is added at once. For anyone else, you get an invitation link to send."
    )
    role = RoleField()


class RoleForm(forms.Form):
    role = RoleField()


class AcceptForm(forms.Form):
    name = forms.CharField(
        label="Your name", max_length=100, required=False, widget=forms.TextInput(attrs={"autocomplete": "name"})
    )
    password1 = PasswordField("Password", help_text="At least 12 characters, not a common password.")
    password2 = PasswordField("Password again")

    def clean(self) -> dict[str, Any]:
        cleaned = self.cleaned_data
        if "password1" in cleaned and "password2" in cleaned and cleaned["password1"] != cleaned["password2"]:
            self.add_error("password2", "The passwords do not match.")
        return cleaned
