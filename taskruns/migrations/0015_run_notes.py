import uuid

import django.db.models.deletion
import django.utils.timezone
from django.conf import settings
from django.db import migrations, models


class Migration(migrations.Migration):
    dependencies = [("taskruns", "0014_start_again")]

    operations = [
        migrations.CreateModel(
            name="RunNote",
            fields=[
                ("id", models.UUIDField(default=uuid.uuid4, editable=False, primary_key=True, serialize=False)),
                ("person_label", models.CharField(max_length=254)),
                ("text", models.CharField(max_length=512)),
                ("created_at", models.DateTimeField(default=django.utils.timezone.now)),
                (
                    "person",
                    models.ForeignKey(
                        null=True,
                        on_delete=django.db.models.deletion.SET_NULL,
                        related_name="+",
                        to=settings.AUTH_USER_MODEL,
                    ),
                ),
                (
                    "run",
                    models.ForeignKey(
                        on_delete=django.db.models.deletion.CASCADE, related_name="notes", to="taskruns.run"
                    ),
                ),
            ],
            options={
                "indexes": [models.Index(fields=["run", "-created_at"], name="note_newest_of_run")],
            },
        ),
    ]
