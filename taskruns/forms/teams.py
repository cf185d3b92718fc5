"""Forms for teams and their members."""

from typing import Any

from django import forms

from .fields import EmailField, PasswordField, RoleField


class TeamForm(forms.Form):
    name = forms.CharField(max_length=100, widget=forms.TextInput(attrs={"autocomplete": "off"}))
    slug = forms.CharField(
        max_length=50,
        required=False,
        help_text="The team's part of its URLs. It never changes. Leave empty to derive it from the name.",
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )
    manager = EmailField(
        "Email of the first manager", required=False, help_text="They add the other members and the API keys."
    )


class SettingsForm(forms.Form):
    name = forms.CharField(max_length=100, widget=forms.TextInput(attrs={"autocomplete": "off"}))


class MemberForm(forms.Form):
    email = EmailField(
        help_text="A person with an account is added immediately. For anyone else you get an invitation link."
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
