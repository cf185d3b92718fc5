"""What people type about saved views."""

from django import forms


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
