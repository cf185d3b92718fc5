"""Forms for saved views."""

from django import forms


class SavedViewForm(forms.Form):
    """Only `NewViewForm` has `query` and `replace`: to change the filter of a view, people save over it."""

    name = forms.CharField(max_length=100, widget=forms.TextInput(attrs={"autocomplete": "off"}))
    shared = forms.BooleanField(label="Share it with the team", required=False)


class NewViewForm(SavedViewForm):
    query = forms.CharField(max_length=8_000, required=False, widget=forms.HiddenInput)
    replace = forms.BooleanField(required=False, widget=forms.HiddenInput)


class DefaultViewForm(forms.Form):
    """For whom the view is the default. `off`: no longer."""

    whose = forms.ChoiceField(choices=[("me", "me"), ("team", "the team")], required=False)
    off = forms.BooleanField(required=False)
