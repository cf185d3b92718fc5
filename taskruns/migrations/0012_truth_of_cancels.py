from typing import Any

from django.db import migrations, models
from django.db.models.functions import Now
from django.utils import timezone


def try_failing_keys_again(apps: Any, _: Any) -> None:
    failing = apps.get_model("taskruns", "Credential").objects.filter(failing_since__isnull=False)
    failing.update(retry_at=timezone.now())


class Migration(migrations.Migration):
    dependencies = [("taskruns", "0011_run_facts")]

    operations = [
        # Existing cancellations count as sent.
        migrations.AddField(
            "cancellation",
            "posted_at",
            models.DateTimeField(db_default=Now(), default=timezone.now, null=True),
        ),
        migrations.AddIndex(
            "cancellation",
            models.Index(fields=["requested_at"], condition=models.Q(posted_at=None), name="cancellation_to_send"),
        ),
        migrations.AddField("run", "last_active_at", models.DateTimeField(null=True)),
        migrations.AddField("credential", "rejected_at", models.DateTimeField(blank=True, null=True)),
        migrations.AddField("credential", "retry_at", models.DateTimeField(blank=True, null=True)),
        migrations.AddField("credential", "recovered_at", models.DateTimeField(blank=True, null=True)),
        migrations.AddField("credential", "backoff_is_limit", models.BooleanField(default=False)),
        migrations.AddField("cancelpace", "paused_at", models.DateTimeField(null=True)),
        migrations.AddField("cancelpace", "pauses", models.PositiveIntegerField(default=0)),
        migrations.AddField("cancelpace", "probe_until", models.DateTimeField(null=True)),
        migrations.RunPython(try_failing_keys_again, migrations.RunPython.noop),
    ]
