from django.db import migrations, models
from django.utils import timezone


class Migration(migrations.Migration):
    dependencies = [("taskruns", "0015_run_notes")]

    operations = [
        migrations.CreateModel(
            name="Move",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("started_at", models.DateTimeField(default=timezone.now)),
                ("finished_at", models.DateTimeField(null=True)),
                ("source", models.CharField(max_length=20)),
            ],
        ),
        migrations.CreateModel(
            name="Restore",
            fields=[
                ("id", models.BigAutoField(auto_created=True, primary_key=True, serialize=False, verbose_name="ID")),
                ("restored_at", models.DateTimeField(default=timezone.now)),
                ("restored_by", models.CharField(max_length=254)),
                ("backup", models.CharField(max_length=64)),
                ("backup_made_at", models.DateTimeField()),
                ("adopted_at", models.DateTimeField(null=True)),
                ("adopted_by", models.CharField(max_length=254, blank=True)),
            ],
        ),
    ]
