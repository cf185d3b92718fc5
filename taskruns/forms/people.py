"""What people type about themselves and, as site admins, about others."""

from zoneinfo import available_timezones

from django import forms

from taskruns.models import SiteRole, Theme


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
