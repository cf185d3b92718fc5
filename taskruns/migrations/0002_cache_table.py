"""The table of Django's DatabaseCache, which counts sign-in tries over all processes."""

from django.core.management import call_command
from django.db import migrations


def create(apps, schema_editor):
    call_command("createcachetable", "cache", database=schema_editor.connection.alias, verbosity=0)


def drop(apps, schema_editor):
    schema_editor.execute("DROP TABLE IF EXISTS cache")


class Migration(migrations.Migration):
    dependencies = [("taskruns", "0001_initial")]
    operations = [migrations.RunPython(create, drop)]
