"""Task names as a search compares them, and why a key's list of tasks may not be whole."""

from typing import Any

from django.db import migrations, models

from taskruns.models.folded import fold

CHUNK = 1_000


def fold_names(apps: Any, _schema_editor: Any) -> None:
    tasks = apps.get_model("taskruns", "Task").objects
    rest = tasks.exclude(name="").order_by("pk")
    chunk = list(rest.only("name")[:CHUNK])
    while chunk:
        for task in chunk:
            task.search_name = fold(task.name)
        tasks.bulk_update(chunk, ["search_name"], batch_size=100)
        chunk = list(rest.filter(pk__gt=chunk[-1].pk).only("name")[:CHUNK])


class Migration(migrations.Migration):
    dependencies = [("taskruns", "0006_people_and_sso")]
    operations = [
        migrations.AddField(
            model_name="credential",
            name="list_problem",
            field=models.TextField(blank=True, default=""),
            preserve_default=False,
        ),
        migrations.AddField(
            model_name="task",
            name="search_name",
            field=models.TextField(blank=True, default="", editable=False),
        ),
        migrations.RunPython(fold_names, migrations.RunPython.noop),
    ]
