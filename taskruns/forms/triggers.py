"""Forms that start a run: one for each kind of task. Fields have the names of Arize's request body."""

import json
import uuid
from collections.abc import Iterator, Mapping
from datetime import UTC, datetime, timedelta
from typing import Any

from django import forms
from django.utils import timezone

from taskruns.arize.triggers import (
    DEFAULT_SPANS,
    LONGEST_EXPERIMENT_NAME,
    LONGEST_WINDOW,
    NOT_IN_A_NAME,
    EvaluationTrigger,
    ExperimentTrigger,
)
from taskruns.arize.wire import TaskType
from taskruns.models import Run, Task

SUGGESTED_WINDOW = timedelta(days=1)  # for a task that never ran
OWN = "own"
# Value -> label and length of the window, which ends when the form was opened.
WINDOWS = {
    "hour": ("Last hour", timedelta(hours=1)),
    "day": ("Last 24 hours", timedelta(days=1)),
    "week": ("Last 7 days", timedelta(days=7)),
}
SUGGESTED = "day"
# A form that is older than this would send times that nobody means any more.
OPENED_WITHIN = timedelta(minutes=30)
LARGEST_NUMBER = 2**31 - 1
# Characters and lines that the audit log stores without cutting.
LONGEST_TEXT = 512
LONGEST_METADATA_NAME = 100
MOST_LINES = 100
_YEARS = range(2000, 2101)


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


Window = tuple[datetime | None, datetime | None]


def _in_words(label: str, window: Window) -> str:
    """`Last 24 hours (2026-11-22 04:00 to 2026-11-23 04:00 CET)`, in the person's zone."""
    start, end = (timezone.localtime(at) for at in window if at is not None)
    return f"{label} ({start:%Y-%m-%d %H:%M} to {end:%Y-%m-%d %H:%M} {end.tzname()})"


def _fits(run: Run) -> bool:
    start, end = run.data_start_time, run.data_end_time
    return start is not None and end is not None and timedelta(0) < end - start <= LONGEST_WINDOW


def _with(data: Mapping[str, Any], **values: str) -> dict[str, Any]:
    """A copy of a form's data, which a request does not allow to change."""
    return {name: data.get(name) for name in data} | values


def _uuid(text: str) -> uuid.UUID | None:
    try:
        return uuid.UUID(text)
    except ValueError:
        return None


class NumberField(forms.IntegerField):
    def __init__(self, *, label: str, **kwargs: Any) -> None:
        super().__init__(label=label, min_value=1, max_value=LARGEST_NUMBER, **kwargs)


class TriggerForm(forms.Form):
    """`what`: the kind of task, for the page's title."""

    what = ""

    def __init__(self, *args: Any, task: Task | None = None, **kwargs: Any) -> None:
        self.task = task
        super().__init__(*args, **kwargs)

    @classmethod
    def suggest(cls, task: Task, now: datetime) -> dict[str, Any]:
        """Initial values."""
        del task, now
        return {}

    @classmethod
    def repeated(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        """Initial values that ask for the same again. `parameters`: a request body."""
        return parameters

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
    """The window is chosen from a list, or typed. A list's times are those of the moment when the form was opened, so
    that the same form sent twice asks for the same window.
    """

    what = "evaluation of a project"
    opened_at = MomentField(required=False, widget=forms.HiddenInput())
    window = forms.ChoiceField(label="Data of", widget=forms.RadioSelect)
    data_start_time = MomentField(label="Data from", required=False)
    data_end_time = MomentField(label="Data until", required=False)
    field_order = ("opened_at", "window", "data_start_time", "data_end_time")

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        if self.is_bound and "window" not in self.data:
            # From a script, or a page of an older version: the times alone.
            self.data = _with(self.data, window=OWN)
        self.opened = self._opened()
        self.windows = dict(self._windows())
        labels = [(value, _in_words(label, window)) for value, (label, window) in self.windows.items()]
        self.fields["window"].choices = [*labels, (OWN, "Own times")]  # type: ignore[attr-defined]  # a ChoiceField
        self.initial = {"opened_at": self.opened.isoformat(), "window": SUGGESTED, **self.initial}
        zone = f"Time zone: {timezone.get_current_timezone_name()}."
        self.fields["data_start_time"].help_text = f"At most {LONGEST_WINDOW.days} days before the end. {zone}"
        self.fields["data_end_time"].help_text = f"Arize may find the newest spans only an hour or two later. {zone}"

    @classmethod
    def suggest(cls, task: Task, now: datetime) -> dict[str, Any]:
        """Own times: from the task's last run until now. The list of windows suggests another."""
        last = task.last_run_at
        start = last if last is not None and last < now else now - SUGGESTED_WINDOW
        return {"data_start_time": max(start, now - LONGEST_WINDOW), "data_end_time": now}

    @classmethod
    def repeated(cls, parameters: dict[str, Any]) -> dict[str, Any]:
        return parameters | {"window": OWN}

    def _opened(self) -> datetime:
        """When the form was opened, to the second. Now if that is not known, not plausible or too long ago."""
        now = timezone.now().replace(microsecond=0)
        if not self.is_bound:
            return now
        try:
            opened = self.fields["opened_at"].clean(self.data.get("opened_at"))
        except forms.ValidationError:
            return now
        return opened if opened is not None and timedelta(0) <= now - opened <= OPENED_WITHIN else now

    def _windows(self) -> Iterator[tuple[str, tuple[str, Window]]]:
        for value, (label, length) in WINDOWS.items():
            yield value, (label, (self.opened - length, self.opened))
        last = self._last_run()
        if last is not None:
            yield f"run-{last.pk}", ("Same as the last run", (last.data_start_time, last.data_end_time))

    def _last_run(self) -> Run | None:
        """The newest run with a window that Arize would accept again; of a sent form, the run that it names."""
        if self.task is None:
            return None
        runs = Run.objects.filter(task=self.task, data_start_time__isnull=False, data_end_time__isnull=False)
        named = str(self.data.get("window", "")) if self.is_bound else ""
        if named.startswith("run-"):
            named_id = _uuid(named.removeprefix("run-"))
            runs = runs.none() if named_id is None else runs.filter(pk=named_id)
        run = runs.order_by("-rank", "-sorted_at", "-pk").first()
        return run if run is not None and _fits(run) else None

    def clean(self) -> dict[str, Any]:
        cleaned, chosen = self.cleaned_data, self.cleaned_data.get("window")
        if chosen in self.windows:
            self._check_age()
            cleaned["data_start_time"], cleaned["data_end_time"] = self.windows[chosen][1]
            return cleaned
        for name in ("data_start_time", "data_end_time"):
            if chosen == OWN and name in cleaned and cleaned[name] is None:
                self.add_error(name, "This field is required.")
        start, end = cleaned.get("data_start_time"), cleaned.get("data_end_time")
        if start and end and start >= end:
            self.add_error("data_start_time", "“Data from” must be before “Data until”.")
        elif start and end and end - start > LONGEST_WINDOW:
            self.add_error("data_start_time", f"Arize accepts at most {LONGEST_WINDOW.days} days.")
        return cleaned

    def _check_age(self) -> None:
        if self.cleaned_data.get("opened_at") in {None, self.opened}:
            return
        self.data = _with(self.data, opened_at=self.opened.isoformat())
        minutes = int(OPENED_WITHIN.total_seconds() // 60)
        self.add_error(
            "window",
            f"This page was open for more than {minutes} minutes, so its times are new now. Check them, then start "
            "the run.",
        )

    def wanted(self) -> EvaluationTrigger:
        values = dict(self.cleaned_data)
        del values["opened_at"], values["window"]
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
        name = "".join(character for character in NOT_IN_A_NAME.sub("", str(task)) if character.isprintable())
        return {"experiment_name": name[: LONGEST_EXPERIMENT_NAME - len(stamp)].strip() + stamp}

    def clean_experiment_name(self) -> str:
        name: str = self.cleaned_data["experiment_name"]
        if NOT_IN_A_NAME.search(name):
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
