"""The forms that confirm a batch, and the pattern of the names of experiments that are started again."""

import re
from datetime import UTC, datetime
from typing import Any

from django import forms
from django.utils import timezone

from taskruns.arize.triggers import LONGEST_EXPERIMENT_NAME, NOT_IN_A_NAME
from taskruns.models import LONGEST_REASON

TYPED_ABOVE = 20  # for more runs than this, a person types their number
DEFAULT_PATTERN = "{name} again {time} {n}"
NO_REASON = "Enter a reason. Your team sees it beside each run, and the audit log keeps it."
TOO_LONG = f"A name has at most {LONGEST_EXPERIMENT_NAME} characters. Shorten the pattern."
_PLACES = ("{name}", "{n}", "{time}")
_PLACE = re.compile(r"\{[^{}]*\}")


def experiment_name(pattern: str, *, name: str, number: int, now: datetime) -> str:
    """The new name. `name` is cut so that the whole is not too long, and cleaned, because Arize accepts less now."""
    values = {"{n}": str(number), "{time}": f"{now.astimezone(UTC):%Y-%m-%d %H:%M:%S}"}
    rest = len(_PLACE.sub(lambda found: values.get(found[0], ""), pattern))
    room = max(0, LONGEST_EXPERIMENT_NAME - rest) // max(1, pattern.count("{name}"))
    clean = "".join(character for character in NOT_IN_A_NAME.sub("", name) if character.isprintable())
    values["{name}"] = clean[:room].strip()
    return _PLACE.sub(lambda found: values.get(found[0], found[0]), pattern).strip()


class ConfirmForm(forms.Form):
    """`total`: the number of runs, which must be typed above TYPED_ABOVE."""

    reason = forms.CharField(
        help_text="Your team sees it beside each run.",
        error_messages={"required": NO_REASON},
        widget=forms.TextInput(attrs={"autocomplete": "off", "maxlength": LONGEST_REASON}),
    )
    count = forms.CharField(widget=forms.TextInput(attrs={"autocomplete": "off", "inputmode": "numeric"}))

    def __init__(self, data: Any = None, *, total: int, experiments: int = 0, initial: Any = None) -> None:
        super().__init__(data, initial=initial, auto_id="batch-%s")
        self.total, self.experiments = total, experiments
        if total <= TYPED_ABOVE:
            del self.fields["count"]
        else:
            self.fields["count"].label = f"Type {total} to confirm that you mean all of them"
            self.fields["count"].error_messages["required"] = self._count_error
        # Not if the reason is filled in: Enter, pressed twice on the button that led here, would confirm.
        if not self.initial.get("reason"):
            self.fields["reason"].widget.attrs["autofocus"] = True

    @property
    def _count_error(self) -> str:
        return f"Type the number of runs, {self.total}, to confirm that you mean all of them."

    def focus_on_error(self) -> None:
        """Give the focus to the first field with an error."""
        wrong = next((name for name in self.fields if name in self.errors), "reason")
        self.fields["reason"].widget.attrs.pop("autofocus", None)
        self.fields[wrong].widget.attrs["autofocus"] = True

    def clean_reason(self) -> str:
        reason: str = self.cleaned_data["reason"]
        if len(reason) > LONGEST_REASON:
            raise forms.ValidationError(f"The reason is longer than {LONGEST_REASON} characters. Please shorten it.")
        if not any(character.isprintable() and not character.isspace() for character in reason):
            raise forms.ValidationError(NO_REASON)
        return reason

    def clean_count(self) -> str:
        count: str = self.cleaned_data["count"]
        if count != str(self.total):
            raise forms.ValidationError(self._count_error)
        return count


class StartAgainForm(ConfirmForm):
    """`experiments`: how many of the runs are experiments, whose new names must be new in their dataset."""

    experiment_name = forms.CharField(
        label="Names of the new experiments",
        error_messages={"required": f"Enter a name pattern, for example {DEFAULT_PATTERN}."},
        help_text=(
            "{name} is the experiment's name if it was started here, else its task's. {n} counts the experiments, "
            "{time} is now in UTC. Each name must be new in its dataset."
        ),
        widget=forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"}),
    )
    override_evaluations = forms.BooleanField(
        label="Re-evaluate spans that already have results",
        required=False,
        help_text="Otherwise they are skipped. If all spans have results, Arize cancels the run itself.",
    )
    field_order = ("reason", "override_evaluations", "experiment_name", "count")

    def __init__(self, data: Any = None, *, total: int, experiments: int = 0, initial: Any = None) -> None:
        super().__init__(data, total=total, experiments=experiments, initial=initial)
        if not experiments:
            del self.fields["experiment_name"]
        if experiments == total:
            del self.fields["override_evaluations"]

    def clean_experiment_name(self) -> str:
        pattern: str = self.cleaned_data["experiment_name"]
        unknown = next((place for place in _PLACE.findall(pattern) if place not in _PLACES), None)
        if unknown is not None:
            raise forms.ValidationError(f"“{unknown[:50]}” is not known here. Use {{name}}, {{n}} and {{time}}.")
        if NOT_IN_A_NAME.search(pattern) or not pattern.isprintable():
            raise forms.ValidationError(
                'Arize accepts no quotation marks ("), backslashes or invisible characters in a name.'
            )
        if self.experiments > 1 and "{n}" not in pattern:
            raise forms.ValidationError("Use {n} in the pattern: without it, all new experiments get the same name.")
        longest = experiment_name(pattern, name="", number=self.total, now=timezone.now())
        if len(longest) > LONGEST_EXPERIMENT_NAME:
            raise forms.ValidationError(TOO_LONG)
        return pattern
