"""Forms for saved views."""

from django import forms


class SavedViewForm(forms.Form):
    """Name and sharing. To change the filter of a view, people save a new one over it (`NewViewForm`)."""

    name = forms.CharField(max_length=100, widget=forms.TextInput(attrs={"autocomplete": "off"}))
    shared = forms.BooleanField(label="Share it with the team", required=False)


class NewViewForm(SavedViewForm):
    query = forms.CharField(max_length=8_000, required=False, widget=forms.HiddenInput)
    replace = forms.BooleanField(required=False, widget=forms.HiddenInput)


class DefaultViewForm(forms.Form):
    """Who gets the view as the default. `off`: remove the default."""

    whose = forms.ChoiceField(choices=[("me", "me"), ("team", "the team")], required=False)
    off = forms.BooleanField(required=False)
