"""Fields and helpers that several forms share. A password is never shown again: its field always renders empty."""

from django import forms
from django.http import HttpRequest, QueryDict

from taskruns.models import TeamRole

LONGEST_PASSWORD = 1_000


def posted(request: HttpRequest) -> QueryDict | None:
    """The data to bind a form to: the body of a POST, even if it is empty, otherwise None."""
    return request.POST if request.method == "POST" else None


def show_error(form: forms.Form, sentence: str, *, field: str = "") -> None:
    """Show a service's sentence at its field, or above the form if the form has no such field."""
    form.add_error(field if field in form.fields else None, sentence)


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
    def __init__(self, label: str = "Email", *, required: bool = True, help_text: str = "") -> None:
        widget = forms.EmailInput(attrs={"autocomplete": "off"})
        super().__init__(label=label, max_length=254, required=required, help_text=help_text, widget=widget)
