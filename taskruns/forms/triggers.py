"""Forms that start a run: one for each kind of task. Fields have the names of Arize's request body."""

import json
import re
from datetime import UTC, datetime, timedelta
from typing import Any

from django import forms
from django.utils import timezone

from taskruns.arize.triggers import (
    DEFAULT_SPANS,
    LONGEST_EXPERIMENT_NAME,
    LONGEST_WINDOW,
    EvaluationTrigger,
    ExperimentTrigger,
)
from taskruns.arize.wire import TaskType
from taskruns.models import Task

SUGGESTED_WINDOW = timedelta(days=1)  # for a task that never ran
LARGEST_NUMBER = 2**31 - 1
# Characters and lines that the audit log stores without cutting.
LONGEST_TEXT = 512
LONGEST_METADATA_NAME = 100
MOST_LINES = 100
_YEARS = range(2000, 2101)
_NOT_IN_A_NAME = re.compile(r'["\\]')


class MomentField(forms.DateTimeField):
    """A time in the person's zone unless it has an offset; cleaned to UTC.

    When clocks are set back, an hour occurs twice. The first one is used, so that the form needs no extra question.
    """

    widget = forms.DateTimeInput(format="%Y-%m-%dT%H:%M:%S", attrs={"type": "datetime-local", "step": "1"})

    def to_python(self, value: Any) -> datetime | None:
        if value in self.empty_values:
            return None
        try:
            moment = datetime.fromisoformat(str(value).strip())
        except ValueError:
            moment = None
        if moment is None or moment.year not in _YEARS:
            raise forms.ValidationError("Enter a time like 2026-11-23T03:00.")
        local = moment.replace(tzinfo=timezone.get_current_timezone()) if moment.tzinfo is None else moment
        return local.astimezone(UTC)


class LineField(forms.CharField):
    """One printable line."""

    def __init__(self, *, label: str, max_length: int = LONGEST_TEXT, **kwargs: Any) -> None:
        widget = forms.TextInput(attrs={"autocomplete": "off", "spellcheck": "false"})
        super().__init__(label=label, max_length=max_length, widget=widget, **kwargs)

    def clean(self, value: Any) -> str:
        text: str = super().clean(value)
        if not text.isprintable():
            raise forms.ValidationError("Invisible characters and line breaks are not allowed here.")
        return text


class LinesField(forms.CharField):
    """One value on each line. A form with errors shows the text as it was typed."""

    def __init__(self, *, label: str, help_text: str) -> None:
        widget = forms.Textarea(attrs={"rows": "3", "autocomplete": "off", "spellcheck": "false"})
        longest = MOST_LINES * (LONGEST_TEXT + LONGEST_METADATA_NAME)
        super().__init__(label=label, help_text=help_text, max_length=longest, required=False, widget=widget)

    def lines(self, value: Any) -> list[str]:
        lines = [line.strip() for line in super().clean(value).splitlines() if line.strip()]
        if len(lines) > MOST_LINES:
            raise forms.ValidationError(f"Enter at most {MOST_LINES} lines.")
        if not all(line.isprintable() for line in lines):
            raise forms.ValidationError("Invisible characters are not allowed here.")
        return lines


class IdsField(LinesField):
    def clean(self, value: Any) -> tuple[str, ...]:
        ids = self.lines(value)
        wrong = next((line for line in ids if " " in line or len(line) > LONGEST_TEXT), None)
        if wrong is not None:
            raise forms.ValidationError(f"“{wrong[:50]}” is not an ID. Enter one ID per line.")
        return tuple(dict.fromkeys(ids))

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(value) if isinstance(value, list | tuple) else value


class MetadataField(LinesField):
    def clean(self, value: Any) -> dict[str, str]:
        found: dict[str, str] = {}
        for line in self.lines(value):
            name, is_pair, text = (part.strip() for part in line.partition("="))
            if not (is_pair and name and text):
                raise forms.ValidationError(f"“{line[:50]}” is not a pair. Enter one name=value per line.")
            if len(name) > LONGEST_METADATA_NAME or len(text) > LONGEST_TEXT:
                raise forms.ValidationError(
                    f"A name has at most {LONGEST_METADATA_NAME} characters, a value at most {LONGEST_TEXT}."
                )
            if name in found:
                raise forms.ValidationError(f"The name “{name[:50]}” is used twice.")
            found[name] = text
        return found

    def prepare_value(self, value: Any) -> Any:
        return "\n".join(f"{name}={text}" for name, text in value.items()) if isinstance(value, dict) else value


class NumberField(forms.IntegerField):
    def __init__(self, *, label: str, **kwargs: Any) -> None:
        super().__init__(label=label, min_value=1, max_value=LARGEST_NUMBER, **kwargs)


class TriggerForm(forms.Form):
    """`what`: the kind of task, for the page's title."""

    what = ""

    @classmethod
    def suggest(cls, task: Task, now: datetime) -> dict[str, Any]:
        """Initial values."""
        del task, now
        return {}

    def wanted(self) -> EvaluationTrigger | ExperimentTrigger:
        """What to send to Arize. Only for a valid form."""
        raise NotImplementedError


class EvaluationForm(TriggerForm):
    max_spans = NumberField(label="Maximum spans", initial=DEFAULT_SPANS)
    override_evaluations = forms.BooleanField(
        label="Re-evaluate spans that already have results",
        required=False,
        help_text="Otherwise they are skipped. If all spans have results, Arize cancels the run itself.",
    )


class ProjectForm(EvaluationForm):
    what = "evaluation of a project"
    data_start_time = MomentField(label="Data from")
    data_end_time = MomentField(label="Data until")
    field_order = ("data_start_time", "data_end_time")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        zone = f"Time zone: {timezone.get_current_timezone_name()}."
        self.fields["data_start_time"].help_text = f"At most {LONGEST_WINDOW.days} days before the end. {zone}"
        self.fields["data_end_time"].help_text = f"Arize may find the newest spans only an hour or two later. {zone}"

    @classmethod
    def suggest(cls, task: Task, now: datetime) -> dict[str, Any]:
        """From the task's last run until now."""
        last = task.last_run_at
        start = last if last is not None and last < now else now - SUGGESTED_WINDOW
        return {"data_start_time": max(start, now - LONGEST_WINDOW), "data_end_time": now}

    def clean(self) -> dict[str, Any]:
        cleaned = self.cleaned_data
        start, end = cleaned.get("data_start_time"), cleaned.get("data_end_time")
        if start and end and start >= end:
            self.add_error("data_start_time", "“Data from” must be before “Data until”.")
        elif start and end and end - start > LONGEST_WINDOW:
            self.add_error("data_start_time", f"Arize accepts at most {LONGEST_WINDOW.days} days.")
        return cleaned

    def wanted(self) -> EvaluationTrigger:
        values = dict(self.cleaned_data)
        window = (values.pop("data_start_time"), values.pop("data_end_time"))
        return EvaluationTrigger(window=window, **values)


class DatasetForm(EvaluationForm):
    what = "evaluation of a dataset"
    experiment_ids = IdsField(
        label="Experiments", help_text="Arize IDs, one per line. Leave empty to let Arize decide."
    )
    field_order = ("experiment_ids",)

    def wanted(self) -> EvaluationTrigger:
        return EvaluationTrigger(**self.cleaned_data)


class ExperimentForm(TriggerForm):
    what = "experiment"
    experiment_name = LineField(
        label="Experiment name",
        max_length=LONGEST_EXPERIMENT_NAME,
        help_text='Must be new in its dataset. No quotation marks (") or backslashes.',
    )
    max_examples = NumberField(label="Maximum examples", required=False, help_text="Leave empty for no limit.")
    example_ids = IdsField(
        label="Only these examples", help_text="Arize IDs, one per line, instead of a number of examples."
    )
    query_filter = LineField(label="Filter", required=False, help_text="In Arize's own query language.")
    dataset_version_id = LineField(
        label="Dataset version", required=False, help_text="Arize ID. Leave empty to let Arize decide."
    )
    tracing_metadata = MetadataField(
        label="Metadata for the traces", help_text="One name=value per line. No secrets: the audit log shows them."
    )
    evaluation_task_ids = IdsField(
        label="Evaluate afterwards", help_text="Arize IDs of evaluation tasks, one per line."
    )

    @classmethod
    def suggest(cls, task: Task, now: datetime) -> dict[str, Any]:
        stamp = f" {now.astimezone(UTC):%Y-%m-%d %H:%M:%S}"
        name = "".join(character for character in _NOT_IN_A_NAME.sub("", str(task)) if character.isprintable())
        return {"experiment_name": name[: LONGEST_EXPERIMENT_NAME - len(stamp)].strip() + stamp}

    def clean_experiment_name(self) -> str:
        name: str = self.cleaned_data["experiment_name"]
        if _NOT_IN_A_NAME.search(name):
            raise forms.ValidationError('Arize accepts no quotation marks (") or backslashes in a name.')
        return name

    def clean(self) -> dict[str, Any]:
        if self.cleaned_data.get("example_ids") and self.cleaned_data.get("max_examples"):
            self.add_error("max_examples", "Enter either a number of examples or their IDs, not both.")
        return self.cleaned_data

    def wanted(self) -> ExperimentTrigger:
        return ExperimentTrigger(**self.cleaned_data)


def form_for(task: Task) -> type[TriggerForm] | None:
    """None if the panel cannot start this type of task. Only its JSON shows whether it is on a dataset or a project."""
    if task.type == TaskType.RUN_EXPERIMENT:
        return ExperimentForm
    if task.type not in {TaskType.TEMPLATE_EVALUATION, TaskType.CODE_EVALUATION}:
        return None
    raw = json.loads(task.as_read)
    return DatasetForm if raw.get("dataset_id") and not raw.get("project_id") else ProjectForm
