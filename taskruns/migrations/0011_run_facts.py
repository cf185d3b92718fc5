"""Facts about runs that change with the clock, and when a key's trouble with Arize began.

The columns are nullable and start without a value: neither database rewrites the table of runs. The worker fills them
in, chunk by chunk (`services/runs/facts.py`).
"""

from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("taskruns", "0010_searches_and_looks")]
    operations = [
        migrations.AddField("credential", "backoff_since", models.DateTimeField(blank=True, null=True)),
        migrations.AddField("run", "with_errors", models.BooleanField(null=True)),
        migrations.AddField("run", "longer_than_usual", models.BooleanField(null=True)),
        migrations.AddField("run", "pending_long", models.BooleanField(null=True)),
        migrations.AddField("run", "progress_changed_at", models.DateTimeField(null=True)),
        migrations.AddIndex(
            "run",
            models.Index(
                condition=models.Q(("with_errors", True)),
                fields=["team", "-rank", "-sorted_at", "-id"],
                name="run_board_with_errors",
            ),
        ),
        migrations.AddIndex(
            "run",
            models.Index(
                condition=models.Q(("longer_than_usual", True)),
                fields=["team", "-rank", "-sorted_at", "-id"],
                name="run_board_longer",
            ),
        ),
        migrations.AddIndex(
            "run",
            models.Index(condition=models.Q(("with_errors", None)), fields=["-sorted_at"], name="run_without_facts"),
        ),
    ]
