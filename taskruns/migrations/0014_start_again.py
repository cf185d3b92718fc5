import django.db.models.deletion
from django.db import migrations, models
from django.db.models.functions import Now
from django.utils import timezone

KINDS = [("cancel", "Cancel"), ("trigger", "Trigger")]
SOURCES = [
    ("selection", "Selection"),
    ("filter", "Filter"),
    ("retry", "Retry"),
    ("stop", "Stop"),
    ("batch", "Batch"),
]
STATES = [
    ("queued", "Queued"),
    ("sent", "Sent"),
    ("confirmed", "Confirmed"),
    ("finished_first", "Finished First"),
    ("failed_first", "Failed First"),
    ("already_cancelled", "Already Cancelled"),
    ("still_running", "Still Running"),
    ("refused", "Refused"),
    ("not_sent", "Not Sent"),
    ("unknown", "Unknown"),
    ("not_needed", "Not Needed"),
    ("done", "Done"),
    ("left_out", "Left Out"),
    ("held", "Held"),
    ("already_started", "Already Started"),
    ("no_window", "No Window"),
    ("long_window", "Long Window"),
    ("unknown_type", "Unknown Type"),
]


class Migration(migrations.Migration):
    dependencies = [("taskruns", "0013_board_filters")]

    operations = [
        migrations.AddField("cancelbatch", "kind", models.CharField(choices=KINDS, default="cancel", max_length=10)),
        migrations.AddField("cancelbatch", "options", models.JSONField(default=dict)),
        migrations.AlterField("cancelbatch", "source", models.CharField(choices=SOURCES, max_length=10)),
        # Existing starts count as sent.
        migrations.AddField(
            "trigger",
            "posted_at",
            models.DateTimeField(db_default=Now(), default=timezone.now, null=True),
        ),
        migrations.AddField("cancelitem", "body", models.JSONField(null=True)),
        migrations.AddField(
            "cancelitem",
            "trigger",
            models.ForeignKey(
                null=True,
                on_delete=django.db.models.deletion.SET_NULL,
                related_name="items",
                to="taskruns.trigger",
            ),
        ),
        migrations.AlterField(
            "cancelitem", "state", models.CharField(choices=STATES, default="queued", max_length=20)
        ),
        migrations.AddConstraint(
            "cancelitem",
            models.UniqueConstraint(
                fields=["run"],
                condition=models.Q(trigger__isnull=False, state__in=["sent", "done", "unknown"]),
                name="one_start_a_run",
            ),
        ),
    ]
