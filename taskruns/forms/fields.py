"""Fields and helpers that several forms share. A password is never shown again: its field always renders empty."""

from django import forms
from django.http import HttpRequest, QueryDict

from taskruns.models import LONGEST_REASON, TeamRole

LONGEST_PASSWORD = 1_000


def posted(request: HttpRequest) -> QueryDict | None:
    """The data to bind a form to: the body of a POST, even if it is empty, otherwise None."""
    return request.POST if request.method == "POST" else None


def confirmed(request: HttpRequest) -> QueryDict | None:
    """The data of a form that asks first: None until the person confirms, so that a first click changes nothing."""
    return request.POST if request.method == "POST" and request.POST.get("confirmed") == "1" else None


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


class ConfirmForm(forms.Form):
    """Asks for a name and a reason, before something that cannot be undone or that takes access away from someone.

    `expected`: the name; `what` it is, such as "name of the team".
    """

    KEPT = ("confirmed", "name", "reason")  # while the person confirms the sign-in

    name = forms.CharField(max_length=254, widget=forms.TextInput(attrs={"autocomplete": "off", "autofocus": True}))
    reason = forms.CharField(
        max_length=LONGEST_REASON,
        help_text="It is kept in the audit log.",
        error_messages={"required": "Enter a reason. Nothing was changed."},
        widget=forms.TextInput(attrs={"autocomplete": "off"}),
    )

    def __init__(self, data: QueryDict | None, *, expected: str, what: str) -> None:
        super().__init__(data)
        self._expected, self._what = expected, what
        self.fields["name"].label = f"Type the {what} to confirm"
        self.fields["name"].error_messages["required"] = self._mismatch

    def clean_name(self) -> str:
        name: str = self.cleaned_data["name"]
        if name.casefold() != self._expected.strip().casefold():
            raise forms.ValidationError(self._mismatch)
        return name

    @property
    def _mismatch(self) -> str:
        return f"This is not the {self._what}. Nothing was changed. Type it as shown above."
