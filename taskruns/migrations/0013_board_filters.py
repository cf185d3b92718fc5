"""Facts for the board's filters, counts and "Needs attention".

Neither database rewrites the table of runs: the columns are nullable, and the two with a default have it in the
database only when they are added. The worker fills in the other rows, chunk by chunk (`services/runs/facts.py`).
"""

from typing import Any

from django.db import migrations, models
from django.db.models import F, Func, IntegerField, Q

from taskruns.models.folded import fold

LONGEST_ID = 2_000  # bytes


def added(name: str, in_database: Any, in_model: Any) -> migrations.SeparateDatabaseAndState:
    """Add a column as `in_database` only: for one with a default in Python, SQLite would rebuild the table."""
    return migrations.SeparateDatabaseAndState(
        [migrations.AddField("run", name, in_database)], [migrations.AddField("run", name, in_model)]
    )


def shorten_creators(apps: Any, schema_editor: Any) -> None:
    """PostgreSQL accepts no longer entry of an index. The run's JSON still has the id."""
    if schema_editor.connection.vendor == "postgresql":
        length = Func(F("created_by_user_id"), function="OCTET_LENGTH", output_field=IntegerField())
        runs = apps.get_model("taskruns", "Run").objects
        runs.alias(bytes=length).filter(bytes__gt=LONGEST_ID).update(created_by_user_id=None)


def fold_spaces(apps: Any, _schema_editor: Any) -> None:
    """Tasks of one space share its name."""
    tasks = apps.get_model("taskruns", "Task").objects
    for name in list(tasks.exclude(space_name="").values_list("space_name", flat=True).distinct()):
        tasks.filter(space_name=name).update(search_space=fold(name))


class Migration(migrations.Migration):
    dependencies = [("taskruns", "0012_truth_of_cancels")]
    operations = [
        migrations.RunPython(shorten_creators, migrations.RunPython.noop),
        added(
            "cancel_open",
            models.BooleanField(db_default=False, null=True),
            models.BooleanField(db_default=False, default=False, null=True),
        ),
        added(
            "attention",
            models.SmallIntegerField(db_default=0, null=True),
            models.SmallIntegerField(db_default=0, default=0, null=True),
        ),
        migrations.AddField("run", "error_share", models.SmallIntegerField(null=True)),
        migrations.AddField("run", "ended_at", models.DateTimeField(null=True)),
        added("is_filled_in", models.BooleanField(null=True), models.BooleanField(default=True, null=True)),
        migrations.AddField("task", "search_space", models.TextField(blank=True, default="", editable=False)),
        migrations.RunPython(fold_spaces, migrations.RunPython.noop),
        # Its index is created after each migrate (`models/run_search.py`).
        migrations.CreateModel(
            "RunSearch",
            [
                ("id", models.BigAutoField(primary_key=True, serialize=False)),
                ("text", models.TextField()),
                (
                    "run",
                    models.OneToOneField(on_delete=models.deletion.CASCADE, related_name="search", to="taskruns.run"),
                ),
                (
                    "team",
                    models.ForeignKey(
                        db_index=False,
                        on_delete=models.deletion.CASCADE,
                        related_name="+",
                        to="taskruns.team",
                    ),
                ),
            ],
        ),
        migrations.AddIndex("cancellation", models.Index(fields=["person_label"], name="cancellation_by_label")),
        migrations.RemoveIndex("run", "run_without_facts"),
        migrations.AddIndex(
            "run",
            models.Index(
                condition=Q(("attention__gt", 0)),
                fields=["team", "-rank", "-sorted_at", "-id"],
                name="run_board_attention",
            ),
        ),
        migrations.AddIndex(
            "run",
            models.Index(
                condition=Q(("attention__gt", 0)),
                fields=["team", "-attention", "-sorted_at", "-id"],
                name="run_by_attention",
            ),
        ),
        migrations.AddIndex("run", models.Index(fields=["team", "status", "ended_at"], name="run_ended_by_status")),
        migrations.AddIndex(
            "run",
            models.Index(
                condition=Q(("ended_at__isnull", False), ("with_errors", True)),
                fields=["team", "ended_at"],
                name="run_ended_with_errors",
            ),
        ),
        migrations.AddIndex(
            "run",
            models.Index(
                condition=Q(("ended_at__isnull", False), ("longer_than_usual", True)),
                fields=["team", "ended_at"],
                name="run_ended_longer",
            ),
        ),
        migrations.AddIndex(
            "run",
            models.Index(condition=Q(("attention__gt", 0)), fields=["ended_at"], name="run_ended_attention"),
        ),
        migrations.AddIndex(
            "run",
            models.Index(condition=Q(("error_share__gt", 0)), fields=["team", "error_share"], name="run_by_share"),
        ),
        migrations.AddIndex(
            "run",
            models.Index(fields=["team", "created_by_user_id", "-rank", "-sorted_at", "-id"], name="run_by_creator"),
        ),
        migrations.AddIndex(
            "run",
            models.Index(condition=Q(("is_filled_in", None)), fields=["-sorted_at"], name="run_not_filled_in"),
        ),
    ]
