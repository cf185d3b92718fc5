"""Forms for a person's own profile, and for site admins who manage people."""

from functools import cache
from zoneinfo import available_timezones

from django import forms

from taskruns.models import SiteRole, Theme
from taskruns.models.people import LONGEST_NAME

from .fields import EmailField


@cache
def _zones() -> list[tuple[str, str]]:
    """Read once: Python looks into every file of the time zone database, and a form asks several times."""
    return [(zone, zone.replace("_", " ")) for zone in sorted(available_timezones())]


# The page says "system". Another label in the model would need a migration.
THEMES = ((Theme.SYSTEM.value, "system"), *((theme.value, theme.label) for theme in Theme if theme.value))


class ProfileForm(forms.Form):
    """A script that sends no `name` leaves it as it is: an older form has no such field."""

    name = forms.CharField(
        max_length=LONGEST_NAME, required=False, widget=forms.TextInput(attrs={"autocomplete": "name"})
    )
    time_zone = forms.ChoiceField(
        label="Time zone", choices=_zones, help_text="Pages use this time zone; exports are in UTC."
    )
    theme = forms.TypedChoiceField(
        label="Theme", choices=THEMES, coerce=Theme, empty_value=Theme.SYSTEM, required=False
    )
    shortcuts = forms.BooleanField(
        label="Keyboard shortcuts", required=False, help_text="Single keys work on the board. Press ? for a list."
    )

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"] if "name" in self.data else self.initial.get("name", "")
        return name


class PersonForm(forms.Form):
    """For site admins: what someone else is called, and how they sign in."""

    name = forms.CharField(
        max_length=LONGEST_NAME, required=False, widget=forms.TextInput(attrs={"autocomplete": "off"})
    )
    email = EmailField("Email")


class SiteRoleForm(forms.Form):
    """`none` is an explicit value, so that an empty form removes no role."""

    CHOICES = (("none", "none"), *((role.value, role.label) for role in SiteRole if role.value))
    role = forms.TypedChoiceField(choices=CHOICES, coerce=lambda value: SiteRole("" if value == "none" else value))


class PeopleFilterForm(forms.Form):
    q = forms.CharField(max_length=254, required=False)
    after = forms.CharField(max_length=254, required=False)
